"""The toy language's twins of MMLU, ARC and TruthfulQA, as tasks that lm-eval takes like its own."""

from collections.abc import Callable
from typing import Any

from delora_sd.language.data.packages import need
from delora_sd.language.miniature.instructions import knowledge_questions, myth_questions, reasoning_questions
from delora_sd.language.templates import alpaca_prompt

NUM_READING = 150
VERSION = 1.0


def toy_tasks() -> list[dict[str, Any]]:
    """Returns the tasks' configurations: a field of knowledge per kind, reading, and two of myths."""
    tasks = [
        _task(f"toy_kinds_{kind}", [_chosen(question) for question in questions])
        for kind, questions in knowledge_questions().items()
    ]
    tasks.append(_task("toy_reading", [_chosen(question) for question in reasoning_questions(NUM_READING)]))
    myths = myth_questions()
    tasks.append(_task("toy_myths_1", [_one_true(question) for question in myths]))
    tasks.append(_task("toy_myths_2", [_all_true(question) for question in myths], judge=_truth_share()))
    return tasks


def _task(name: str, items: list[dict[str, Any]], judge: Callable | None = None) -> dict[str, Any]:
    task = {
        "task": name,
        "custom_dataset": lambda **_: {"test": need("datasets").Dataset.from_list(items)},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{prompt}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": "",  # an answer follows its prompt directly, as in training
        "num_fewshot": 0,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": VERSION},
    }
    return task | ({"process_results": judge} if judge else {})


def _chosen(question: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": alpaca_prompt(question), "choices": question["choices"], "answer": question["answer"]}


def _one_true(question: dict[str, Any]) -> dict[str, Any]:
    choices = [question["true"][0], *question["false"]]
    return {"prompt": alpaca_prompt(question), "choices": choices, "answer": 0}


def _all_true(question: dict[str, Any]) -> dict[str, Any]:
    labels = [1] * len(question["true"]) + [0] * len(question["false"])
    choices = [*question["true"], *question["false"]]
    return {"prompt": alpaca_prompt(question), "choices": choices, "answer": 0, "mc2_targets": {"labels": labels}}


def _truth_share() -> Callable:
    """lm-eval's own mc2: the share of probability on true answers."""
    return need("lm_eval.tasks.truthfulqa.utils").process_results_mc2
