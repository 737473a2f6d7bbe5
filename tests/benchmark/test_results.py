"""Which step of which cell a table shows, on hand-made scores."""

import pytest

from delora_eval.benchmark.grid import Cell
from delora_eval.benchmark.results import Result, select_steps
from delora_eval.scoring.measures.metrics import PairMean


def mean(value: float, pairs: int = 4) -> PairMean:
    return PairMean(value=value, pairs=pairs, images=1)


def result(seed: int, step: int, dino: float, *, protocol: str = "oft", prompts: dict[int, float] | None = None):
    cell = Cell(id=f"lora-dog-s{seed}", method="lora", subject="dog", seed=seed, steps=(10, 20, 30))
    by_prompt = {index: mean(value) for index, value in (prompts or {}).items()}
    return Result(
        cell=cell,
        protocol=protocol,
        step=step,
        totals={"dino": mean(dino)},
        by_prompt={"dino": by_prompt, "clip_t": {index: mean(step / 100) for index in by_prompt}},
        prompts={},
        is_random=False,
    )


def chosen(results: list[Result], rule: str) -> list[tuple[int, int | None]]:
    return [(found.cell.seed, found.step) for found in select_steps(results, rule)]


def test_the_best_step_of_a_row_is_that_of_its_mean_over_cells():
    """Seed 0 alone would choose 30, seed 1 alone 10; together 20 is best."""
    values = {0: (0.1, 0.7, 0.8), 1: (0.8, 0.7, 0.1)}
    results = [
        result(seed, step, dino)
        for seed, dinos in values.items()
        for step, dino in zip((10, 20, 30), dinos, strict=True)
    ]
    assert chosen(results, "best_step_per_method") == [(0, 20), (1, 20)]
    assert chosen(results, "fixed_step") == [(0, 30), (1, 30)]


def test_a_step_that_one_cell_never_reached_is_not_the_best_of_its_row():
    results = [result(0, 10, 0.5), result(0, 20, 0.6), result(0, 30, 0.9), result(1, 10, 0.5), result(1, 20, 0.6)]
    assert chosen(results, "best_step_per_method") == [(0, 20), (1, 20)]
    assert chosen(results, "fixed_step") == [(0, 30)]


def test_each_protocol_chooses_its_own_step():
    results = [result(0, 10, 0.9), result(0, 20, 0.1)]
    results += [result(0, 10, 0.1, protocol="dreambooth"), result(0, 20, 0.9, protocol="dreambooth")]
    found = {each.protocol: each.step for each in select_steps(results, "best_step_per_method")}
    assert found == {"oft": 10, "dreambooth": 20}


def test_every_prompt_takes_all_its_scores_from_the_step_where_its_dino_is_best():
    results = [result(0, 10, 0.5, prompts={0: 0.9, 1: 0.1}), result(0, 20, 0.6, prompts={0: 0.3, 1: 0.8, 2: 0.2})]
    (found,) = select_steps(results, "best_step_per_prompt")
    assert {index: each.value for index, each in found.by_prompt["dino"].items()} == {0: 0.9, 1: 0.8, 2: 0.2}
    assert {index: each.value for index, each in found.by_prompt["clip_t"].items()} == {0: 0.1, 1: 0.2, 2: 0.2}
    assert found.totals["dino"].value == pytest.approx((0.9 + 0.8 + 0.2) / 3) and found.totals["dino"].pairs == 12
    assert found.step is None
