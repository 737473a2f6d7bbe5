"""Kills the product and fills its disk, again and again, and checks that the same command then ends in the same bytes.

    python scripts/crash_test.py                                   about 10 minutes on one core
    python scripts/crash_test.py --kills 4 --boundaries 2          half a minute: what the tests run
    python scripts/crash_test.py --scenes train --record crash.json

Four scenes, as small as they get: train, generate, score, and a benchmark of two methods. Each is disturbed in three
ways, each time in a fresh folder, and then simply started again:
  kill   SIGKILL at a seeded random moment
  crash  SIGKILL at a write boundary: a file half-written, a rename not done
  full   from a write boundary on the disk is full (ENOSPC); the command has to say so in one line, exit code 2
Boundaries are found by watching an undisturbed run. Of train, generate and score every one fails; of the benchmark
one of each kind (the same write for another cell is no new kind) that the other three do not have, or with
`--every-cell` all. After the restart every file has to be what an undisturbed run writes, byte for byte, but for
times (scripts/crash_scenes.py lists them). Exit code 1 if anything differs.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # one thread: a process that has started a pool cannot be forked
os.environ["HF_HUB_OFFLINE"] = "1"

import argparse
import importlib
import json
import random
import re
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from crash_attempts import Ending, Fault, Signal, attempt, import_everything
from crash_faults import NEEDS_SPACE
from crash_scenes import Scene, arguments_of, differing, read_comparable

SCENES = ("train", "generate", "score", "benchmark")
SHARES = {"train": 0.32, "generate": 0.2, "score": 0.16, "benchmark": 0.32}
"""Of the random kills."""

_REPORT_EVERY_S = 15.0


@dataclass(kw_only=True)
class Tally:
    """What was done to one scene."""

    boundaries: int = 0
    """Write boundaries of an undisturbed run."""
    kill: int = 0
    crash: int = 0
    full: int = 0
    seconds: float = 0.0
    findings: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """An undisturbed run."""

    ending: Ending
    files: dict[str, str]


class Theatre:
    """Scenes on one stage: prepares each, disturbs it, starts it again, compares."""

    def __init__(self, folder: Path, base: str, seed: int):
        self.stage, self.logs, self.kept = folder / "stage", folder / "logs", folder / "kept"
        self.base, self.random = base, random.Random(seed)
        self.known_kinds: set[str] = set()

    def rehearse(self, name: str, start: Path | None) -> tuple[Scene, Reference]:
        """Runs the scene twice undisturbed; raises when the two differ, for then nothing could be compared."""
        scene = Scene(name=name, arguments=arguments_of(name, self.stage, self.base), stage=self.stage, start=start)
        first, second = self._undisturbed(scene), self._undisturbed(scene)
        if wrong := differing(second.files, first.files):
            raise SystemExit(f"{name}: two undisturbed runs differ, {'; '.join(wrong)}")
        return scene, second

    def keep(self, name: str) -> Path:
        """Copies the stage: the next scene starts from it."""
        return Path(shutil.copytree(self.stage, self.kept / name))

    def disturb(self, scene: Scene, reference: Reference, how: Fault | Signal) -> tuple[bool, str | None]:
        """Returns (the disturbance took place, what went wrong)."""
        scene.set_up()
        ending = self._run(scene, how)
        if isinstance(how, Signal) and ending.code >= 0:
            return False, None
        wrong = _wrong_ending(ending, how) or self._differences_after_restart(scene, reference)
        return True, f"{scene.name}, {_describe(how, reference)}: {wrong}" if wrong else None

    def faults(self, reference: Reference, *, is_by_kind: bool, limit: int | None) -> list[Fault]:
        """Returns what fails at which boundary; `limit`: so many of each failure, drawn at random."""
        named = list(enumerate(reference.ending.boundaries, start=1))
        # A flush changes nothing that a killed process leaves behind: the state is that of the next boundary.
        crashes = [(at, what) for at, what in named if not what.startswith("flush")]
        fulls = [(at, what) for at, what in named if what.split()[0] in NEEDS_SPACE]
        kinds = {kind_of(what) for _, what in named}
        if is_by_kind:
            crashes, fulls = self._one_of_each_new_kind(crashes), self._one_of_each_new_kind(fulls)
        self.known_kinds |= kinds
        if limit is not None:
            crashes, fulls = (self.random.sample(some, min(limit, len(some))) for some in (crashes, fulls))
        return [Fault(at=at, failure="crash") for at, _ in crashes] + [Fault(at=at, failure="full") for at, _ in fulls]

    def _one_of_each_new_kind(self, named: list[tuple[int, str]]) -> list[tuple[int, str]]:
        by_kind: dict[str, list[tuple[int, str]]] = {}
        for at, what in named:
            by_kind.setdefault(kind_of(what), []).append((at, what))
        return [self.random.choice(same) for kind, same in by_kind.items() if kind not in self.known_kinds]

    def _undisturbed(self, scene: Scene) -> Reference:
        scene.set_up()
        ending = self._run(scene)
        if ending.code != 0:
            raise SystemExit(f"{scene.name} fails undisturbed: {ending.output}")
        for module in json.loads((self.logs / "modules.json").read_text()):
            if module not in sys.modules and not module.startswith("__"):
                importlib.import_module(module)  # what it imported lazily, the next attempts share
        return Reference(ending=ending, files=read_comparable(self.stage))

    def _differences_after_restart(self, scene: Scene, reference: Reference) -> str | None:
        again = self._run(scene)
        if again.code != 0:
            return f"the same command again ends with {again.code}: {again.output[-300:]}"
        left = [str(path.relative_to(self.stage)) for path in self.stage.rglob(".partial-*")]
        wrong = differing(read_comparable(self.stage), reference.files) + [f"left over: {name}" for name in left]
        return "; ".join(sorted(wrong)[:5]) or None

    def _run(self, scene: Scene, how: Fault | Signal | None = None) -> Ending:
        return attempt(scene.arguments, self.stage, self.logs, how)


def kind_of(boundary: str) -> str:
    """Returns the boundary without which cell, step, picture or process: `rename RUN/export/*.kohya.safetensors`."""
    text = re.sub(r"\.partial-[^~]*~\d+~", "", boundary)
    text = re.sub(r"(bench/cells/[^/ ]+|bench/base/dog|\bdog)(?=/|$)", "RUN", text)
    text = re.sub(r"[^/ ]*\.(png|svg|claim|kohya\.safetensors|diffusers\.safetensors)$", r"*.\1", text)
    text = re.sub(r"tables/\w+\.", "tables/*.", text)
    return re.sub(r"[0-9a-f]{8,}(-\d+)*|\d+", "N", text)


def run_scene(theatre: Theatre, scene: Scene, reference: Reference, options: argparse.Namespace) -> Tally:
    """Disturbs one scene as often as the options say."""
    tally, began = Tally(boundaries=len(reference.ending.boundaries)), time.monotonic()
    by_kind = scene.name == "benchmark" and not options.every_cell
    faults = theatre.faults(reference, is_by_kind=by_kind, limit=options.boundaries)
    num_kills = round(options.kills * SHARES[scene.name])
    last_line, total = time.monotonic(), len(faults) + num_kills
    while tally.kill < num_kills or faults:
        moment = theatre.random.uniform(0.0, reference.ending.seconds)
        how = faults.pop() if faults else Signal(after_s=moment)
        took_place, finding = theatre.disturb(scene, reference, how)
        kind = how.failure if isinstance(how, Fault) else "kill"
        setattr(tally, kind, getattr(tally, kind) + took_place)
        if finding:
            tally.findings.append(finding)
            say(f"WRONG: {finding}")
        if time.monotonic() - last_line > _REPORT_EVERY_S:
            last_line = time.monotonic()
            say(f"{scene.name}: {tally.kill + tally.crash + tally.full}/{total}")
    return replace(tally, seconds=round(time.monotonic() - began, 1))


def run_all(options: argparse.Namespace, folder: Path) -> dict[str, Tally]:
    """Returns what was done to each scene; a scene starts from where an undisturbed run of the one before ended."""
    theatre, tallies, start = Theatre(folder, prepare(options, folder), options.seed), {}, None
    for name in SCENES:
        scene, reference = theatre.rehearse(name, start if name in ("generate", "score") else None)
        start = theatre.keep(name)
        if name not in options.scenes:
            continue
        say(
            f"{name}: {reference.ending.seconds:.1f} s undisturbed, {len(reference.ending.boundaries)} write boundaries"
        )
        tallies[name] = run_scene(theatre, scene, reference, options)
    return tallies


def prepare(options: argparse.Namespace, folder: Path) -> str:
    """Imports everything once and returns the base model; class images of one step, for their quality is not tested."""
    os.environ["DELORA_SD_CACHE"] = str(folder / "stage" / "cache")
    say("importing")
    import_everything()
    from delora_sd.generation import class_images

    class_images.NUM_INFERENCE_STEPS = 1
    if options.base != "tiny":
        return options.base
    from make_tiny_sd import write_tiny_sd

    process = os.fork()  # a model in this process could start threads
    if process == 0:
        write_tiny_sd(folder / "tiny")
        os._exit(0)
    os.waitpid(process, 0)
    return str(folder / "tiny")


def print_table(tallies: dict[str, Tally]) -> None:
    print(f"{'':<10} {'boundaries':>10} {'kills':>6} {'crashes':>8} {'full disks':>10} {'wrong':>6} {'seconds':>8}")
    for name, tally in tallies.items():
        figures = f"{tally.boundaries:>10} {tally.kill:>6} {tally.crash:>8} {tally.full:>10}"
        print(f"{name:<10} {figures} {len(tally.findings):>6} {tally.seconds:>8.0f}")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _wrong_ending(ending: Ending, how: Fault | Signal) -> str | None:
    if isinstance(how, Signal) or how.failure == "crash":
        return None
    lines = [line for line in ending.output.splitlines() if line.startswith("delora-sd:")]
    is_said = len(lines) == 1 and ("space" in lines[0] or "disk" in lines[0])
    if "Traceback" in ending.output or (ending.code, is_said) not in ((2, True), (0, False)):
        return f"exit code {ending.code} on a full disk, having said {lines or ending.output[-300:]}"
    return None


def _describe(how: Fault | Signal, reference: Reference) -> str:
    if isinstance(how, Signal):
        return f"killed after {how.after_s:.2f} s"
    return f"{how.failure} at boundary {how.at} ({reference.ending.boundaries[how.at - 1]})"


def default_folder() -> str:
    """Memory where there is some: what a killed process leaves does not depend on the disk, and flushing is quick."""
    memory = Path("/dev/shm")
    return str(memory) if memory.is_dir() and os.access(memory, os.W_OK) else tempfile.gettempdir()


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="SIGKILLs at random moments, over all scenes (50)")
    parser.add_argument("--boundaries", type=int, help="so many crashes and full disks per scene (default: all)")
    parser.add_argument("--every-cell", action="store_true", help="every boundary of the benchmark, not one per kind")
    parser.add_argument("--scenes", nargs="+", default=SCENES, choices=SCENES, metavar="SCENE", help=", ".join(SCENES))
    parser.add_argument("--base", default="tiny", help="tiny (random weights, quick) or miniature")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and of what is drawn")
    parser.add_argument("--folder", default=default_folder(), help="where the temporary folder goes (%(default)s)")
    parser.add_argument("--record", type=Path, help="write the figures to this JSON file")
    return parser.parse_args()


def main() -> int:
    options, began = parse_options(), time.monotonic()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="crash-test-") as folder:
        tallies = run_all(options, Path(folder).resolve())
    print_table(tallies)
    findings = [finding for tally in tallies.values() for finding in tally.findings]
    if options.record:
        record = {"seconds": round(time.monotonic() - began, 1), "seed": options.seed, "base": options.base}
        record |= {"scenes": {name: asdict(tally) for name, tally in tallies.items()}, "findings": findings}
        options.record.parent.mkdir(parents=True, exist_ok=True)
        options.record.write_text(json.dumps(record, indent=2) + "\n")
    print("\n".join(findings) or "after every disturbance the same command ended in the same bytes")
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main())
