"""What a benchmark will cost, said before it is spent; and what its folder says afterwards."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from delora_eval.benchmark import grid
from delora_eval.benchmark.folder import open_folder, read_plan
from delora_eval.benchmark.run.cell.bench import Display
from delora_eval.benchmark.run.cell.packs import make_packs
from delora_eval.benchmark.run.outlook import dry_run
from delora_eval.benchmark.run.outlook.probe import Probe, measure
from delora_eval.benchmark.run.outlook.status import print_status
from delora_eval.benchmark.run.workers.claims import Claims
from delora_eval.benchmark.run.workers.norms import mean_norms
from delora_eval.benchmark.run.workers.runner import run_phases, share_cells
from delora_eval.benchmark.settings import StatusConfig
from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder, append_line

from ..fakes import Failures, fake_stages

PROBE = Probe(
    cells=4,
    step_seconds=0.5,
    start_seconds=10,
    image_seconds=0.25,
    set_seconds=4,
    score_seconds=0.01,
    checkpoint_bytes=1000,
    adapter_bytes=500,
    image_bytes=100,
)


def count(config) -> dry_run.Amount:
    return dry_run.count_work(config, make_packs(open_folder(config), grid.test_cells(config), 4))


def test_work_is_counted_by_hand(make_config):
    """8 cells in 2 packs of 40 steps; sets of 25 x 4 images: one of the subject, one of the class; 2 of the base."""
    amount = count(make_config())
    assert (amount.packs, amount.pack_steps, amount.adapter_steps, amount.cells) == (2, 80, 320, 8)
    assert (amount.sets, amount.images) == (8 * 2 + 2, (8 * 2 + 2) * 100)
    assert amount.checkpoints == 16


def test_every_scored_step_costs_its_images(make_config):
    amount = count(make_config(steps=[0, 20, 40], drift=False, generate={"images_per_prompt": 1}))
    assert amount.images == (8 * 2 + 2) * 25


def test_hours_and_disk_follow_from_the_probe(make_config):
    amount = count(make_config())
    parts = {part: hours * 3600 for part, hours in dry_run.hours(amount, PROBE).items()}
    assert parts == pytest.approx({"training": 2 * 10 + 80 * 0.5, "images": 18 * 4 + 1800 * 0.25, "scores": 18})
    assert dry_run.disk_bytes(amount, PROBE) == 16 * 1000 + 8 * 500 + 1800 * 100


def test_probe_measures_one_short_pack_and_leaves_nothing_behind(make_config, tmp_path):
    config, seen = make_config(), []
    stages = fake_stages(config)

    def train(trains):
        seen.extend(trains)
        stages.train(trains)
        for step in range(1, 7):
            append_line(RunFolder(Path(trains[0].output_dir)).events, {"step": step, "images_per_second": 16.0})

    probe = measure(
        config,
        tuple(grid.test_cells(config)[:4]),
        replace(stages, train=train),
    )
    assert probe.cells == 4 and probe.step_seconds == 2 * 4 / 16
    assert {config.training.num_steps for config in seen} == {6}
    assert not Path(seen[0].output_dir).exists()
    assert not Path(config.output_dir).exists()


def test_status_names_what_failed_and_who_works_on_what(make_config, capsys):
    config = make_config()
    folder = run_phases(config, fake_stages(config, Failures(crashes=("delora",))), share_cells(0, 1))
    cell = read_plan(folder)["test"][0]
    (folder.run(cell).path / "outcome.json").unlink()
    assert Claims(folder=folder.claims).acquire(cell.id)
    capsys.readouterr()
    print_status(StatusConfig(folder=str(folder.path)))
    shown = capsys.readouterr().out
    assert f"{cell.id}: with process" in shown
    assert "failed: train: OSError: the disk said no" in shown


def test_status_of_another_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a benchmark folder"):
        print_status(StatusConfig(folder=str(tmp_path)))


def test_display_counts_states_and_time_left(make_config):
    cells = grid.test_cells(make_config())
    display = Display()
    display.plan(cells, ["waiting"] * len(cells))
    display.end(cells[0].id, "finished")
    console = Console(width=100)
    with console.capture() as captured:
        console.print(display.render())
    counted = next(line for line in captured.get().splitlines() if " lora " in line)
    assert [word for word in counted if word.isdigit()] == ["1", "3"]


def test_weight_norms_in_both_readings_equal_a_naive_loop():
    weights = {
        "down_blocks.0.attentions.0.attn1.to_q": torch.tensor([[3.0, 0.0], [4.0, 1.0], [0.0, 0.0]]),
        "down_blocks.0.attentions.1.attn2.to_q": torch.ones(4, 9),
        "mid_block.attentions.0.attn1.to_out.0": torch.tensor([[2.0]]),
    }
    norms = mean_norms(weights.items())
    assert norms["input"]["down_blocks.0"]["Q"] == pytest.approx(((5 + 1) / 2 + 2) / 2)
    assert norms["output"]["down_blocks.0"]["Q"] == pytest.approx(((3 + 17**0.5 + 0) / 3 + 3) / 2)
    assert norms["input"]["mid_block"] == {"Out": 2.0}
