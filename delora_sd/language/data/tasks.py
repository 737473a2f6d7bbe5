"""GLUE's eight tasks: what their columns are called, how many labels there are. A table of facts."""

from dataclasses import dataclass

from delora_sd.errors import UserError, nearest_name


@dataclass(frozen=True, kw_only=True)
class Task:
    title: str
    columns: tuple[str, ...]
    """One sentence, or two."""
    num_labels: int
    """1: a number is predicted (regression)."""
    num_train: int
    num_validation: int
    """Sizes of the public sets; of MNLI the matched validation set."""
    validation_split: str = "validation"


TASKS = {
    "mnli": Task(
        title="MNLI", columns=("premise", "hypothesis"), num_labels=3, num_train=392702, num_validation=9815,
        validation_split="validation_matched",
    ),
    "sst2": Task(title="SST-2", columns=("sentence",), num_labels=2, num_train=67349, num_validation=872),
    "mrpc": Task(title="MRPC", columns=("sentence1", "sentence2"), num_labels=2, num_train=3668, num_validation=408),
    "cola": Task(title="CoLA", columns=("sentence",), num_labels=2, num_train=8551, num_validation=1043),
    "qnli": Task(title="QNLI", columns=("question", "sentence"), num_labels=2, num_train=104743, num_validation=5463),
    "qqp": Task(title="QQP", columns=("question1", "question2"), num_labels=2, num_train=363846, num_validation=40430),
    "rte": Task(title="RTE", columns=("sentence1", "sentence2"), num_labels=2, num_train=2490, num_validation=277),
    "stsb": Task(title="STS-B", columns=("sentence1", "sentence2"), num_labels=1, num_train=5749, num_validation=1500),
}  # fmt: skip
"""In the order of the paper's tables. The diagnostic set and WNLI are not in them."""

INSTRUCTIONS = "instructions"


def check_task(name: str) -> None:
    """Raises UserError for a task that is none of these."""
    if name not in TASKS:
        raise UserError(f"tasks: unknown task '{name}'{nearest_name(name, tuple(TASKS))}")
