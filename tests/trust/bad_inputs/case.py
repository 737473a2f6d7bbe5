"""One bad (or odd but good) input: the command it goes into, and what must be said."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class World:
    """What a case may use; `folder` is its own, everything else is shared and never written to."""

    folder: Path
    base: Path
    """A tiny Stable Diffusion in diffusers layout."""
    photos: Path
    finished_run: Path
    """Trained for two steps on the tiny base, with one scored image set."""

    @property
    def out(self) -> Path:
        """Where commands are told to write."""
        return self.folder / "out"

    def path(self, name: str, content: bytes | str = b"") -> Path:
        """Returns a new file of the case."""
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def copy_of_base(self) -> Path:
        return Path(shutil.copytree(self.base, self.folder / "base"))

    def copy_of_run(self) -> Path:
        return Path(shutil.copytree(self.finished_run, self.folder / "run"))

    def train(self, *settings: str) -> list[str]:
        """Returns the command that trains one step, changed by `settings`."""
        usual = [f"model.base={self.base}", f"data.photos={self.photos}", "data.class_word=dog"]
        short = [
            "training.num_steps=1",
            "training.prior_weight=0",
            "training.export_check=tensors",
            f"output_dir={self.out}",
        ]
        given = {setting.partition("=")[0] for setting in settings}
        return ["train", *(word for word in usual + short if word.partition("=")[0] not in given), *settings]

    def generate(self, *settings: str) -> list[str]:
        """Returns the command that draws one image from the finished run."""
        usual = [f"run={self.finished_run}", f"output_dir={self.out}", "images_per_prompt=1", "num_inference_steps=1"]
        given = {setting.partition("=")[0] for setting in settings}
        return ["generate", *(word for word in usual if word.partition("=")[0] not in given), *settings]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A command line and what it must answer."""

    name: str
    command: Callable[[World], list[str]]
    """Makes what the case needs in `world.folder` and returns the arguments of `delora-sd`."""
    says: tuple[str, ...] = ()
    """Parts of the one line on standard error: what, where, what to do."""


def snapshot(folder: Path) -> dict[str, str]:
    """Returns {relative path: hash of the content, or what it is} of everything below the folder."""
    return {str(path.relative_to(folder)): _describe(path) for path in sorted(folder.rglob("*"))}


def _describe(path: Path) -> str:
    if path.is_symlink() or not (path.is_file() or path.is_dir()):
        return "special"
    return "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
