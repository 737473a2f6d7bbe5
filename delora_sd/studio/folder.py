"""The studio's folder: photos, runs and jobs of one person. Every name from the page passes through here.

photos/SUBJECT/    photos, captions beside them, masks/, subject.json
runs/RUN/          run folders, as `delora-sd train` writes them
jobs/NNNN-TITLE/   what was asked for, what it printed, how it ended
costs/             what trainings were measured to take on this machine
"""

import re
from dataclasses import dataclass
from pathlib import Path

from delora_sd.errors import UserError, nearest_name
from delora_sd.files.run_folder import RunFolder

_NAME = re.compile(r"\w[\w -]{0,59}")
"""Letters of any script, digits, spaces, `_` and `-`: no dots, no slashes, nothing a shell or a path would read."""


@dataclass(frozen=True)
class StudioFolder:
    """Paths only; nothing is created before it is written."""

    path: Path

    @property
    def photos(self) -> Path:
        return self.path / "photos"

    @property
    def runs(self) -> Path:
        return self.path / "runs"

    @property
    def jobs(self) -> Path:
        return self.path / "jobs"

    @property
    def costs(self) -> Path:
        return self.path / "costs"

    @property
    def uploads(self) -> Path:
        """Where the server puts what is being uploaded, before anybody has looked at it; emptied at every start."""
        return self.path / ".uploads"

    @property
    def address(self) -> Path:
        """Where the page of this folder is open: {"url"}."""
        return self.path / ".address.json"

    def subject_names(self) -> list[str]:
        """Returns the subjects, the one that was changed last first."""
        return _names_by_age(self.photos)

    def run_names(self) -> list[str]:
        """Returns the run folders that have been begun or planned, the newest first."""
        return [name for name in _names_by_age(self.runs) if (self.runs / name / "config.yaml").is_file()]

    def subject(self, name: str | None) -> Path:
        """Returns the folder of a subject's photos. Raises UserError when there is none of that name."""
        return self.photos / _known(name, self.subject_names(), "subject")

    def run(self, name: str | None) -> RunFolder:
        """Returns a run folder that this version reads.

        Raises:
            UserError: none of that name, or one that another version wrote.
        """
        run = RunFolder(self.runs / _known(name, self.run_names(), "run"))
        run.check_version()
        return run


def check_name(name: str | None, *, setting: str) -> str:
    """Returns the name of a new subject, without blanks around it. Raises UserError for one that is no plain name."""
    plain = (name or "").strip()
    if not _NAME.fullmatch(plain):
        raise UserError(f"{setting}: '{plain[:60]}'; expected up to 60 letters, digits, blanks, - and _")
    return plain


def contains(folder: Path, path: Path) -> bool:
    """True when the path, with every link followed, lies inside the folder."""
    return path.resolve().is_relative_to(folder.resolve())


def _names_by_age(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    inside = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return [path.name for path in sorted(inside, key=lambda path: (-path.stat().st_mtime, path.name))]


def _known(name: str | None, known: list[str], kind: str) -> str:
    if not name:
        raise UserError(f"no {kind} is chosen" + ("" if known else f", and there is no {kind} yet"))
    if name not in known:
        raise UserError(f"no {kind} '{name[:60]}' here" + (nearest_name(name, known) if known else ""))
    return name
