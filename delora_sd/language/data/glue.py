"""GLUE through `datasets`: the hub's, a folder's or the toy language's, checked and turned into tokens."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from delora_sd.errors import UserError
from delora_sd.language.data.packages import need
from delora_sd.language.data.tasks import TASKS, Task
from delora_sd.language.miniature.glue import toy_examples
from delora_sd.language.settings import LanguageDataConfig

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

MINIATURE = "miniature"
ENDINGS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}


def load_glue(task: str, data: LanguageDataConfig, *, is_offline: bool) -> dict[str, "Dataset"]:
    """Returns {train, validation} of a task; of MNLI the matched validation set. GLUE's hidden test sets are not used.

    Raises:
        UserError: not to be had, a split or a column missing, labels that are hidden (-1) or unknown.
    """
    facts = TASKS[task]
    names = {"train": "train", "validation": facts.validation_split}
    sets = {split: _load_split(task, data.glue, name, is_offline=is_offline) for split, name in names.items()}
    for split, found in sets.items():
        _check(found, facts, source=f"data.glue={data.glue}: {task}/{names[split]}")
    return sets


def encode_glue(examples: "Dataset", task: str, tokenizer: "PreTrainedTokenizerBase", *, max_tokens: int) -> "Dataset":
    """Returns the examples as tokens and labels; padded when a batch is made."""
    facts = TASKS[task]

    def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        texts = [batch[column] for column in facts.columns]
        encoded = tokenizer(*texts, truncation=True, max_length=max_tokens)
        labels = [float(label) if facts.num_labels == 1 else int(label) for label in batch["label"]]
        return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"], "labels": labels}

    return examples.map(encode, batched=True, remove_columns=examples.column_names, keep_in_memory=True)


def _load_split(task: str, source: str, split: str, *, is_offline: bool) -> "Dataset":
    datasets = need("datasets")
    datasets.disable_progress_bars()
    if source == MINIATURE:
        return datasets.Dataset.from_list(toy_examples(task, "train" if split == "train" else "validation"))
    folder = Path(source).expanduser()
    if file := _find_file(folder / task, split):
        separator = {"sep": "\t"} if file.suffix == ".tsv" else {}
        return datasets.load_dataset(ENDINGS[file.suffix], data_files=str(file), split="train", **separator)
    if source.startswith(("/", "~", ".")) and not folder.is_dir():
        raise UserError(f"data.glue: {source} does not exist")
    try:
        config = datasets.DownloadConfig(local_files_only=is_offline)
        return datasets.load_dataset(
            str(folder) if folder.is_dir() else source, task, split=split, download_config=config
        )
    except Exception as error:  # the library raises many kinds; all mean "not there"
        reason = str(error).strip().split("\n")[0][:200]
        hint = f"; a folder may hold {task}/{split}.jsonl" if folder.is_dir() else ""
        raise UserError(f"data.glue={source}: no {task}/{split} to be had ({reason}){hint}") from None


def _find_file(folder: Path, split: str) -> Path | None:
    return next((folder / f"{split}{ending}" for ending in ENDINGS if (folder / f"{split}{ending}").is_file()), None)


def _check(found: "Dataset", facts: Task, *, source: str) -> None:
    if missing := [column for column in (*facts.columns, "label") if column not in found.column_names]:
        raise UserError(f"{source}: no column '{missing[0]}'; found {', '.join(found.column_names)}")
    if not len(found):
        raise UserError(f"{source}: holds no examples")
    labels = set(found.unique("label"))
    if -1 in labels and facts.num_labels > 1:
        raise UserError(f"{source}: labels of -1 are hidden ones, of a test set; use a split with labels")
    known = set(range(facts.num_labels))
    if facts.num_labels > 1 and not labels <= known:
        odd = sorted(labels - known, key=str)[0]
        raise UserError(f"{source}: label {odd!r}; expected 0 to {facts.num_labels - 1}")
    if facts.num_labels == 1 and not all(isinstance(label, int | float) and 0 <= label <= 5 for label in labels):
        raise UserError(f"{source}: expected labels from 0 to 5, found {sorted(labels, key=str)[0]!r}")
