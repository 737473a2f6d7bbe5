"""lm-eval through its Python entry: which of its tasks are asked, and what its answers mean in the table."""

import contextlib
import io
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from delora_eval.language.metrics import BENCHMARK_COLUMNS, MMLU_BY_SIZE
from delora_eval.language.run.toy_tasks import toy_tasks
from delora_eval.language.settings import BenchmarksConfig
from delora_sd.language.data.packages import need


@dataclass(frozen=True, kw_only=True)
class Benchmarks:
    """What is asked: lm-eval's tasks, and under which prefix or name each column's answers come back."""

    tasks: list[Any]
    fields: str
    """Prefix of the fields of knowledge."""
    names: Mapping[str, str]
    """{column: task}"""


@dataclass(frozen=True, kw_only=True)
class Answers:
    scores: dict[str, float]
    errors: dict[str, float]
    versions: dict[str, Any]


PAPER = Benchmarks(
    tasks=["mmlu", "arc_challenge", "truthfulqa_mc1", "truthfulqa_mc2"],
    fields="mmlu_",
    names={"arc": "arc_challenge", "tru1": "truthfulqa_mc1", "tru2": "truthfulqa_mc2"},
)


def score_causal(model: Any, tokenizer: Any, config: BenchmarksConfig) -> Answers:
    """Returns the benchmarks' percentages of a model, zero-shot, with their standard errors and task versions.

    Raises:
        UserError: lm-eval is not installed.
    """
    benchmarks = PAPER if config.tasks == "paper" else _toy_benchmarks()
    wrapper = need("lm_eval.models.huggingface").HFLM
    evaluate = need("lm_eval").simple_evaluate
    index = need("lm_eval.tasks").TaskManager
    with _quiet():
        wrapped = wrapper(
            pretrained=model, tokenizer=tokenizer, batch_size=config.batch_size, add_bos_token=config.adds_bos
        )
        found = evaluate(
            model=wrapped, tasks=benchmarks.tasks, num_fewshot=0, limit=config.limit, bootstrap_iters=1,
            log_samples=False, task_manager=index(include_defaults=benchmarks is PAPER),
        )  # fmt: skip
    return read_answers(found, benchmarks)


def read_answers(found: Mapping[str, Any], benchmarks: Benchmarks) -> Answers:
    """Returns the columns of what `simple_evaluate` answered."""
    results = found["results"]
    leaves = [name for name in found["n-samples"] if name in results]
    fields = [name for name in leaves if name.startswith(benchmarks.fields)]
    sizes = {name: found["n-samples"][name]["effective"] for name in leaves}
    accuracies = {name: 100 * float(results[name]["acc,none"]) for name in leaves}
    errors = {name: 100 * _standard_error(results[name], sizes[name]) for name in leaves}
    scores = {column: accuracies[task] for column, task in benchmarks.names.items()}
    total = sum(sizes[name] for name in fields)
    scores["mmlu"] = sum(accuracies[name] for name in fields) / len(fields)
    scores[MMLU_BY_SIZE] = sum(accuracies[name] * sizes[name] for name in fields) / total
    scores["mean"] = sum(scores[column] for column in BENCHMARK_COLUMNS) / len(BENCHMARK_COLUMNS)
    spread = {column: errors[task] for column, task in benchmarks.names.items()}
    spread["mmlu"] = math.sqrt(sum(errors[name] ** 2 for name in fields)) / len(fields)
    spread["mean"] = math.sqrt(sum(spread[column] ** 2 for column in BENCHMARK_COLUMNS)) / len(BENCHMARK_COLUMNS)
    versions = {name: found["versions"].get(name) for name in (*benchmarks.names.values(), *fields[:1])}
    return Answers(scores=scores, errors=spread, versions=versions)


def _standard_error(result: Mapping[str, Any], count: int) -> float:
    """lm-eval's own, sample std / sqrt(n); of an accuracy it follows from the mean where none is given."""
    given = result.get("acc_stderr,none")
    if isinstance(given, int | float):
        return float(given)
    share = result["acc,none"]
    return math.sqrt(max(0.0, share * (1 - share)) / max(1, count - 1))


def _toy_benchmarks() -> Benchmarks:
    return Benchmarks(
        tasks=toy_tasks(),
        fields="toy_kinds_",
        names={"arc": "toy_reading", "tru1": "toy_myths_1", "tru2": "toy_myths_2"},
    )


@contextlib.contextmanager
def _quiet():
    """Its loggers and progress bars speak of every task."""
    before = logging.getLogger("lm_eval").level
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.getLogger("lm_eval").setLevel(before)
