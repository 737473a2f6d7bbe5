"""`checkpoint: best_held_out` and `references`: chosen on some prompts and seeds, reported on the others."""

from dataclasses import replace

import pytest

from delora_eval.benchmark.folder import evaluation_fingerprint, read_plan
from delora_eval.benchmark.grid import test_cells as grid_cells
from delora_eval.benchmark.results import read_results, select_steps
from delora_eval.benchmark.run.cell.stages import score_settings
from delora_eval.benchmark.run.outlook.dry_run import count_work
from delora_eval.benchmark.run.workers.runner import run_phases, share_cells
from delora_eval.choice.choose import read_choice
from delora_eval.choice.prompts import split_prompts
from delora_sd.data.prompts import benchmark_prompts
from delora_sd.errors import UserError
from delora_sd.settings import GenerateConfig

from ..fakes import fake_stages


def run(config, asked: list | None = None):
    stages = fake_stages(config)
    if asked is not None:
        generate = stages.generate

        def listen(settings: GenerateConfig):
            asked.append(settings)
            return generate(settings)

        object.__setattr__(stages, "generate", listen)
    return run_phases(config, stages, share_cells(0, 1))


@pytest.fixture
def best_held_out(make_config):
    def make(*, train=None, **changes):
        shorter = {"training": {"num_steps": 60, "checkpoint_every": 20}, "data.hold_out": 1}
        settings = make_config().train | shorter | (train or {})
        return make_config(**{"checkpoint": "best_held_out", "steps": [20, 40, 60], "train": settings} | changes)

    return make


def test_choosing_and_reporting_prompts_are_never_the_same():
    for is_live in (True, False):
        choosing, reporting = split_prompts(benchmark_prompts(is_live))
        assert (len(choosing), len(reporting)) == (5, 20) and not set(choosing) & set(reporting)
    with pytest.raises(UserError, match="give 2"):
        split_prompts(["a photo of {identifier} {class_word}"])


def test_a_cell_is_reported_at_the_step_it_chose_on_the_other_prompts(best_held_out):
    asked: list[GenerateConfig] = []
    config = best_held_out()
    folder = run(config, asked)
    drawn = [settings for settings in asked if settings.prompts != ("class",)]
    choosing, reporting = split_prompts(benchmark_prompts(True))
    assert {settings.step for settings in drawn} == {40}
    assert all(settings.prompts in (reporting, split_prompts(benchmark_prompts(False))[1]) for settings in drawn)
    cells = [cell for cell in read_results(folder, _cells(folder))]
    assert {result.step for result in select_steps(cells, "best_held_out")} == {40}
    choice = read_choice(folder.run(cells[0].cell))
    assert choice["step"] == 40 and set(choice["prompts"]) <= set(choosing) | set(benchmark_prompts(False))


def test_the_choice_is_another_evaluation_of_the_same_cells(best_held_out):
    config = best_held_out()
    cell = _cells(run(config))[0]
    assert evaluation_fingerprint(config, cell) != evaluation_fingerprint(
        replace(config, checkpoint="fixed_step"), cell
    )
    assert evaluation_fingerprint(config, cell) == evaluation_fingerprint(replace(config, references="both"), cell)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train": {"data.hold_out": 0}}, "checkpoint: best_held_out needs photos that are not trained on"),
        ({"steps": [40]}, "at least 2 checkpoints"),
        ({"checkpoint": "fixed_step", "references": "both", "train": {"data.hold_out": 0}}, "references: both needs"),
        ({"train": {"data.hold_out": 2}}, "at least 2 must remain"),
    ],
)
def test_what_cannot_be_held_out_or_chosen_is_refused_before_any_training(best_held_out, changes, says):
    with pytest.raises(UserError, match=says):
        run(best_held_out(**changes))


def test_the_plan_counts_few_images_at_every_step_and_the_rest_at_one(best_held_out):
    config = best_held_out(subjects=["dog"], seeds=[0], methods={"lora": {}}, drift=False)
    amount = count_work(config, [tuple(grid_cells(config))])
    assert amount.images == (5 * 3 + 20) * 4


def test_images_are_ranked_among_all_subjects_of_the_dataset_however_many_the_grid_has(make_config):
    few, many = (score_settings(make_config(subjects=names)) for names in (["dog"], ["dog", "cat"]))
    assert few == many and {"dog", "cat"} <= set(few.gallery_subjects)


def _cells(folder):
    return read_plan(folder)["test"]
