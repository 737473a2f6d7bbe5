"""A pack that would not fit: the estimate before the crash, and the smaller pack that then really trains."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from delora_eval.benchmark import grid
from delora_eval.benchmark.folder import open_folder
from delora_eval.benchmark.run.cell.packs import find_pack_size, make_packs
from delora_sd.errors import UserError
from delora_sd.training import recipe
from delora_sd.training.loop.loop import Session, run_loop
from delora_sd.training.memory import meter, pack_size
from delora_sd.training.memory.pack_size import USABLE_SHARE, PackMemory, fit_pack, measure_pack_memory

CPU = torch.device("cpu")


@pytest.fixture
def cells(make_config, tiny_sd, dataset):
    config = make_config(
        train={
            "model": {"base": str(tiny_sd), "size_px": 64},
            "data": {"dataset": str(dataset)},
            "adapter.rank": 4,
            "training": {"num_steps": 2, "checkpoint_every": 2, "prior_weight": 0.0, "batch_size": 4},
        },
        methods={"delora": {}},
        pack="64",
    )
    folder = open_folder(config)
    found = [
        replace(cell, train=replace(cell.train, output_dir=str(folder.run(cell).path)))
        for cell in grid.test_cells(config)
    ]
    assert len(found) == 4
    return folder, found


def test_pack_asked_for_by_hand_shrinks_to_what_fits_and_trains(cells, monkeypatch):
    folder, cells = cells
    needs, said = measure_pack_memory([cells[0].train]), []
    limit = needs.needed_bytes(2.5) / USABLE_SHARE
    monkeypatch.setattr(meter, "free_bytes", lambda device: limit)
    size = find_pack_size("64", cells, measure=measure_pack_memory, say=said.append)
    assert size == 2
    assert len(said) == 1 and said[0].startswith("4 adapters together need about ")
    assert said[0].endswith("going on with packs of 2")
    packs = make_packs(folder, cells, size)
    assert [len(pack) for pack in packs] == [2, 2]
    results = recipe.train_pack([cell.train for cell in packs[0]])
    assert [result.failure for result in results] == [None, None]


def test_the_estimate_is_what_the_loop_takes(cells, monkeypatch):
    """Estimated from one and two adapters, measured in the real loop with four."""
    configs, measured = [cell.train for cell in cells[1]], []

    def measured_loop(session: Session, *arguments, **named) -> None:
        tensors = [*session.model.parameters(), *session.model.buffers()]
        peak = meter.peak_bytes(CPU, partial(run_loop, session, *arguments, **named))
        measured.append(peak + sum(tensor.nbytes for tensor in tensors))

    monkeypatch.setattr(recipe, "run_loop", measured_loop)
    recipe.train_pack(configs)
    assert measure_pack_memory(configs[:1]).needed_bytes(4) == pytest.approx(measured[0], rel=0.1)


def test_what_fits_is_not_touched_and_nothing_is_said(cells, monkeypatch):
    _, cells = cells
    needs, said = measure_pack_memory([cells[0].train]), []
    monkeypatch.setattr(meter, "free_bytes", lambda device: needs.needed_bytes(4.1) / USABLE_SHARE)
    assert find_pack_size("64", cells, measure=lambda configs: needs, say=said.append) == 4
    assert find_pack_size("auto", cells, measure=lambda configs: needs, say=said.append) == 4
    assert said == []


def test_one_adapter_too_many_is_said_before_it_is_tried(monkeypatch):
    said, needs = [], PackMemory(fixed_bytes=3e9, bytes_per_adapter=2e9)
    monkeypatch.setattr(meter, "free_bytes", lambda device: 4e9)
    assert fit_pack(8, needs, said.append) == 1
    assert said[0].startswith("one adapter needs about 5.00 GB to train, 3.60 GB of memory can be used")
    assert "training.gradient_checkpointing=true" in said[0]


def test_the_most_demanding_run_decides_and_an_impossible_one_is_passed_over(cells):
    _, cells = cells
    small = cells[0].train
    large = replace(small, training=replace(small.training, batch_size=8))
    impossible = replace(small, adapter=replace(small.adapter, rank=10_000))
    assert measure_pack_memory([small, impossible, large]) == measure_pack_memory([large])
    with pytest.raises(UserError, match=r"adapter\.rank: 10000"):
        measure_pack_memory([impossible])


def test_checkpointing_needs_less_per_adapter(cells):
    _, cells = cells
    plain = cells[0].train
    checkpointed = replace(plain, training=replace(plain.training, gradient_checkpointing=True))
    assert measure_pack_memory([checkpointed]).bytes_per_adapter < measure_pack_memory([plain]).bytes_per_adapter


def test_runs_of_one_size_are_measured_once_and_of_several_ranks_the_highest(cells, monkeypatch):
    _, cells = cells
    first, measured = cells[0].train, []

    def measure(config) -> PackMemory:
        measured.append(config.adapter.rank)
        if config.adapter.rank == 16:
            raise UserError("too high")
        return PackMemory(fixed_bytes=0, bytes_per_adapter=config.adapter.rank)

    monkeypatch.setattr(pack_size, "_measure", measure)
    ranks = [replace(first, adapter=replace(first.adapter, rank=rank)) for rank in (2, 16, 8, 8)]
    longer = replace(ranks[2], training=replace(first.training, num_steps=99), seed=7)
    bounded = replace(ranks[2], adapter=replace(ranks[2].adapter, boundary=3.0))
    assert measure_pack_memory([*ranks, longer, bounded]).bytes_per_adapter == 8
    assert measured == [16, 8]
    other = replace(first, adapter=replace(first.adapter, method="lora"))
    measure_pack_memory([first, other])
    assert measured[2:] == [4, 4]
