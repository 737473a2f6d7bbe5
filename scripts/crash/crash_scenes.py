"""The four commands of the crash test at their smallest, and what of their files has to be equal, byte for byte."""

import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

PAGE_BYTES = 4096

TRACES = (".lock", ".arbiter", ".in-use", ".scores.jsonl.lock")
"""Files that say who worked there; left out of the comparison."""

CLOCKED_JSON = {
    "manifest.json": ("seconds", "git"),
    "outcome.json": ("seconds",),
    "report.json": ("inputs",),
}
"""{file: keys left out}. `git`: the checkout may move while the test runs. `inputs`: a hash over times."""

_SPEED = re.compile(rb'"images_per_second": [^,}]+')
_DATE = re.compile(rb'"modelspec\.date":"[^"]*"')
_DURATION = re.compile(rb"\d[\d.,]* (s|min)\b")
CLOCKED_TEXT = {
    "events.jsonl": _SPEED,
    ".safetensors": _DATE,
    "cost.csv": _DURATION,
    "cost.md": _DURATION,
    "cost.tex": _DURATION,
    "report.md": _DURATION,
    "report.html": _DURATION,
}
"""{end of the file's name: what is blanked}: speed, the date in an export's header, durations in the cost table."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One command in a folder of its own, and what lies there before it starts."""

    name: str
    arguments: list[str]
    stage: Path
    """The folder that is watched and compared; always the same path, for paths are written into files."""
    start: Path | None = None
    """Copied to the stage before each attempt."""

    def set_up(self) -> None:
        shutil.rmtree(self.stage, ignore_errors=True)
        self.stage.mkdir(parents=True)
        self.fill()

    def fill(self) -> None:
        if self.start is not None:
            shutil.copytree(self.start, self.stage, dirs_exist_ok=True)


def arguments_of(command: str, stage: Path, base: str) -> list[str]:
    """Returns the command's words; train, generate and score share `stage/dog`."""
    run = stage / "dog"
    training = {"num_steps": 2, "checkpoint_every": 1, "num_class_images": 1, "log_every": 1}
    grid = {
        "model": {"base": base},
        "data": {"dataset": "miniature"},
        "adapter.rank": 1,
        "training": training,
    }
    prompts = ["a {identifier} {class_word} here", "a {class_word}, {identifier}"]
    sampling = {"num_inference_steps": 2, "images_per_prompt": 1}
    return {
        "train": [
            "train",
            f"output_dir={run}",
            f"model.base={base}",
            "data.dataset=miniature",
            "data.subject=dog",
            "adapter.rank=1",
            *(f"training.{key}={value}" for key, value in training.items()),
            "training.keep_checkpoints=1",
            "training.prior_weight=0",
            "preview.every=1",
            "preview.num_inference_steps=1",
            'preview.prompts=["a {identifier} {class_word}"]',
        ],
        "generate": [
            "generate",
            str(run),
            f"prompts={json.dumps(prompts)}",
            "batch_size=1",
            *(f"{key}={value}" for key, value in sampling.items()),
        ],
        "score": ["score", str(run), "protocol=miniature"],
        "benchmark": [
            "benchmark",
            f"output_dir={stage / 'bench'}",
            'methods={"lora": {}, "delora": {}}',
            "subjects=[dog]",
            "seeds=[0]",
            "steps=[0, 2]",
            "drift=false",
            "pack=1",
            "protocol=[miniature]",
            f"train={json.dumps(grid)}",
            f"generate={json.dumps(sampling | {'prompts': prompts[:1]})}",
        ],
    }[command]


def read_comparable(folder: Path) -> dict[str, str]:
    """Returns {file: hash of all in it that must not depend on when and where it was made}."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in TRACES)
    return {str(path.relative_to(folder)): _hash(path) for path in files}


def count_pages(folder: Path) -> int:
    """Returns what the files take of a file system in memory, in its pages."""
    return sum(-(-path.stat().st_size // PAGE_BYTES) for path in folder.rglob("*") if path.is_file())


def differing(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Returns what is missing, too much or different, one short line each."""
    return (
        [f"missing: {name}" for name in sorted(expected.keys() - found.keys())]
        + [f"too much: {name}" for name in found.keys() - expected.keys()]
        + [f"different: {name}" for name in found.keys() & expected.keys() if found[name] != expected[name]]
    )


def _hash(path: Path) -> str:
    content = path.read_bytes()
    if path.name in CLOCKED_JSON:
        values = {key: value for key, value in json.loads(content).items() if key not in CLOCKED_JSON[path.name]}
        content = json.dumps(values, sort_keys=True).encode()
    for ending, pattern in CLOCKED_TEXT.items():
        if path.name.endswith(ending):
            content = pattern.sub(b"", content)
    return hashlib.sha256(content).hexdigest()
