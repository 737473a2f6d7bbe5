"""Scenes on one stage: rehearsed undisturbed, started again after each disturbance, compared byte for byte."""

import importlib
import random
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from crash_attempts import Ending, Fault, Signal, attempt
from crash_faults import NEEDS_SPACE
from crash_scenes import Scene, arguments_of, count_pages, differing, read_comparable


@dataclass(frozen=True, kw_only=True)
class Reference:
    """An undisturbed run."""

    ending: Ending
    files: dict[str, str]
    num_pages: int
    """What its files take on a small disk."""


class Theatre:
    """One folder for the stage, the logs, and what a scene needs of the one before."""

    def __init__(self, folder: Path, base: str, seed: int):
        self.stage, self.logs, self._kept = folder / "stage", folder / "logs", folder / "kept"
        self._base, self.random = base, random.Random(seed)
        self._known_kinds: set[str] = set()

    def rehearse(self, name: str, start: Path | None) -> tuple[Scene, Reference]:
        """Runs the scene twice undisturbed; gives up when the two differ, for then nothing could be compared."""
        scene = Scene(name=name, arguments=arguments_of(name, self.stage, self._base), stage=self.stage, start=start)
        first, second = self._undisturbed(scene), self._undisturbed(scene)
        if wrong := differing(second.files, first.files):
            raise SystemExit(f"{name}: two undisturbed runs differ: {'; '.join(wrong)}")
        return scene, second

    def keep(self, name: str) -> Path:
        """Copies the stage: the next scene starts from it."""
        return Path(shutil.copytree(self.stage, self._kept / name))

    def run(self, scene: Scene, how: Fault | Signal | None = None, *, user: int | None = None) -> Ending:
        return attempt(scene.arguments, self.stage, self.logs, how, user=user)

    def differences_after_restart(self, scene: Scene, reference: Reference) -> str | None:
        """Starts the command again and says what is not as in the undisturbed run."""
        again = self.run(scene)
        if again.code != 0:
            return f"the same command again ends with {again.code}: {again.output[-300:]}"
        return self.differences(reference)

    def differences(self, reference: Reference) -> str | None:
        wrong = differing(read_comparable(self.stage), reference.files)
        wrong += [f"left over: {path.relative_to(self.stage)}" for path in self.stage.rglob(".partial-*")]
        return "; ".join(sorted(wrong)[:5]) or None

    def faults(self, reference: Reference, *, is_by_kind: bool, limit: int | None) -> list[Fault]:
        """Returns what fails at which boundary.

        Args:
            is_by_kind: Crashes only at one boundary of each kind that no scene before had; a disk is always full so.
            limit: So many of each failure, drawn at random.
        """
        named = list(enumerate(reference.ending.boundaries, start=1))
        # A flush changes nothing that a killed process leaves behind: the state is that of the next boundary.
        crashes = [(at, what) for at, what in named if not what.startswith("flush")]
        fulls = self._one_of_each_new_kind([(at, what) for at, what in named if what.split()[0] in NEEDS_SPACE])
        if is_by_kind:
            crashes = self._one_of_each_new_kind(crashes)
        if limit is not None:
            crashes, fulls = (self.random.sample(some, min(limit, len(some))) for some in (crashes, fulls))
        return [Fault(at=at, failure="crash") for at, _ in crashes] + [Fault(at=at, failure="full") for at, _ in fulls]

    def remember_kinds(self, reference: Reference) -> None:
        """From here on, the boundaries of this scene are of no new kind."""
        self._known_kinds |= set(map(kind_of, reference.ending.boundaries))

    def _one_of_each_new_kind(self, named: list[tuple[int, str]]) -> list[tuple[int, str]]:
        by_kind: dict[str, list[tuple[int, str]]] = {}
        for at, what in named:
            by_kind.setdefault(kind_of(what), []).append((at, what))
        return [self.random.choice(same) for kind, same in by_kind.items() if kind not in self._known_kinds]

    def _undisturbed(self, scene: Scene) -> Reference:
        scene.set_up()
        ending = self.run(scene)
        if ending.code != 0:
            raise SystemExit(f"{scene.name} fails undisturbed: {ending.output}")
        for module in set(ending.modules) - sys.modules.keys() - {"__mp_main__"}:
            importlib.import_module(module)  # what it imported lazily, the next attempts share
        return Reference(ending=ending, files=read_comparable(self.stage), num_pages=count_pages(self.stage))


def kind_of(boundary: str) -> str:
    """Returns the boundary without which cell, step, image or process: `rename RUN/export/*.kohya.safetensors`."""
    text = re.sub(r"\.partial-[^~]*~\d+~", "", boundary)
    text = re.sub(r"(bench/cells/[^/ ]+|bench/base/dog|\bdog)(?=/|$)", "RUN", text)
    text = re.sub(r"[^/ ]*\.(png|svg|claim|kohya\.safetensors|diffusers\.safetensors)$", r"*.\1", text)
    text = re.sub(r"tables/\w+\.", "tables/*.", text)
    return re.sub(r"[0-9a-f]{8,}(-\d+)*|\d+", "N", text)
