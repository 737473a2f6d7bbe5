"""Kills the product, fills its disk, stops it, gets in its way; the same command then has to end in the same bytes.

    python scripts/crash/crash_test.py                                   about 15 minutes on one core
    python scripts/crash/crash_test.py --short                           half a minute: what the tests run
    python scripts/crash/crash_test.py --scenes train --record crash.json

Four scenes, as small as they get: train, generate, score, and a benchmark of two methods. Each disturbance gets a fresh
folder, and then the same command is simply started again:
  kills       SIGKILL at a seeded random moment
  crashes     SIGKILL at a write boundary: a file half-written, a rename not done
  full disks  from a write boundary on there is no space (ENOSPC): one line, exit code 2
  stops       SIGTERM or Ctrl-C at a random moment: one line that says how to go on, exit code 143 or 130, within 10 s
  rivals      the same command in a second process: it is told who is at work
  read-only   a folder that may not be written: one line, exit code 2, nothing changed
  small disks a real file system that is too small (where mounting is permitted)
Boundaries are found by watching an undisturbed run. Of train, generate and score each one crashes; of the benchmark and
of all for the full disks, one of each kind that no scene before has had (the same write for another step or cell is no
new kind; --every-cell crashes the benchmark everywhere).
After the restart every file has to be what an undisturbed run writes, byte for byte, but for times and for traces of
who worked there (scripts/crash/crash_scenes.py lists them). Exit code 1 if anything differs.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # one thread: a process that has started a pool cannot be forked
os.environ["HF_HUB_OFFLINE"] = "1"

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import crash_disturbances as disturb
from crash_attempts import import_everything
from crash_scenes import Scene
from crash_theatre import Reference, Theatre

SCENES = ("train", "generate", "score", "benchmark")
KILL_SHARES = {"train": 0.34, "generate": 0.2, "score": 0.16, "benchmark": 0.3}
KINDS = ("kills", "crashes", "full disks", "stops", "rivals", "read-only", "small disks")
SHORT = {"kills": 3, "boundaries": 1, "stops": 1, "small_disks": 1, "scenes": ("train", "generate", "score")}

_REPORT_EVERY_S = 30.0

Disturbance = tuple[str, Callable[[Theatre, Scene, Reference], str | None]]


@dataclass(kw_only=True)
class Tally:
    """What was done to one scene."""

    boundaries: int
    """Write boundaries of an undisturbed run."""
    done: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    findings: list[str] = field(default_factory=list)
    seconds: float = 0.0


def plan(theatre: Theatre, scene: Scene, reference: Reference, options: argparse.Namespace) -> Iterator[Disturbance]:
    """Yields everything that is done to a scene, the quickest to understand first."""
    yield "rivals", disturb.rival
    yield "read-only", disturb.read_only
    if options.can_mount:
        yield from [("small disks", disturb.small_disk)] * options.small_disks
    yield from [("stops", disturb.stop)] * options.stops
    yield from [("kills", disturb.kill)] * round(options.kills * KILL_SHARES[scene.name])
    by_kind = scene.name == "benchmark" and not options.every_cell
    for fault in theatre.faults(reference, is_by_kind=by_kind, limit=options.boundaries):
        kind = {"crash": "crashes", "full": "full disks"}[fault.failure]
        yield kind, partial(disturb.fault, how=fault)


def run_scene(theatre: Theatre, scene: Scene, reference: Reference, options: argparse.Namespace) -> Iterator[Tally]:
    """Does everything that is planned, and yields the figures now and then; what comes too late is done again."""
    tally, began = Tally(boundaries=len(reference.ending.boundaries)), time.monotonic()
    disturbances, last_line = list(plan(theatre, scene, reference, options)), began
    for number, (kind, disturbance) in enumerate(disturbances, start=1):
        finding = _until_in_time(disturbance, theatre, scene, reference)
        tally.done[kind] += 1
        tally.seconds = round(time.monotonic() - began, 1)
        if finding:
            tally.findings.append(f"{scene.name}, {finding}")
            say(f"WRONG: {scene.name}, {finding}")
        if time.monotonic() - last_line > _REPORT_EVERY_S:
            last_line = time.monotonic()
            say(f"{scene.name}: {number}/{len(disturbances)}")
            yield tally
    yield tally


def _until_in_time(disturbance: Callable, theatre: Theatre, scene: Scene, reference: Reference) -> str | None:
    while True:
        try:
            return disturbance(theatre, scene, reference)
        except disturb.TooLate:
            continue


def run_all(options: argparse.Namespace, folder: Path) -> dict[str, Tally]:
    """Returns what was done to each scene; a scene starts from where an undisturbed run of the one before ended."""
    theatre, tallies, start = Theatre(folder, prepare(options, folder), options.seed), {}, None
    for name in SCENES:
        if name == "benchmark" and name not in options.scenes:
            continue
        scene, reference = theatre.rehearse(name, start if name in ("generate", "score") else None)
        start = theatre.keep(name)
        if name in options.scenes:
            say(f"{name}: {reference.ending.seconds:.1f} s, {len(reference.ending.boundaries)} write boundaries")
            for tallies[name] in run_scene(theatre, scene, reference, options):
                write_record(options, tallies)
        theatre.remember_kinds(reference)
    return tallies


def write_record(options: argparse.Namespace, tallies: dict[str, Tally]) -> None:
    """Writes what is known so far: a test that is interrupted leaves its figures."""
    if options.record is None:
        return
    record = {
        "seconds": round(sum(tally.seconds for tally in tallies.values()), 1),
        "seed": options.seed,
        "base": options.base,
        "scenes": {name: asdict(tally) for name, tally in tallies.items()},
        "findings": [finding for tally in tallies.values() for finding in tally.findings],
    }
    options.record.parent.mkdir(parents=True, exist_ok=True)
    options.record.write_text(json.dumps(record, indent=2) + "\n")


def prepare(options: argparse.Namespace, folder: Path) -> str:
    """Imports everything once and returns the base model; class images of one step, for their quality is not tested."""
    folder.chmod(0o755)  # for the user without rights
    os.environ["DELORA_SD_CACHE"] = str(folder / "stage" / "cache")
    say("importing")
    import_everything()
    from delora_sd.generation import class_images

    class_images.NUM_INFERENCE_STEPS = 1
    if options.base != "tiny":
        return options.base
    sys.path.append(str(Path(__file__).parents[1] / "prepare"))
    from make_tiny_sd import write_tiny_sd

    process = os.fork()  # a model in this process could start threads
    if process == 0:
        write_tiny_sd(folder / "tiny")
        os._exit(0)
    os.waitpid(process, 0)
    return str(folder / "tiny")


def print_table(tallies: dict[str, Tally]) -> None:
    headings = ("boundaries", *KINDS, "wrong", "seconds")
    print(f"{'':<10}" + "".join(f"{heading:>12}" for heading in headings))
    for name, tally in tallies.items():
        figures = (tally.boundaries, *tally.done.values(), len(tally.findings), round(tally.seconds))
        print(f"{name:<10}" + "".join(f"{figure:>12}" for figure in figures))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def default_folder() -> str:
    """Memory where there is some: what a killed process leaves does not depend on the disk, and flushing is quick."""
    memory = Path("/dev/shm")
    return str(memory) if memory.is_dir() and os.access(memory, os.W_OK) else tempfile.gettempdir()


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a few of each, without the benchmark")
    parser.add_argument("--kills", type=int, default=50, help="over all scenes (%(default)s)")
    parser.add_argument("--stops", type=int, default=5, help="per scene (%(default)s)")
    parser.add_argument("--small-disks", type=int, default=3, help="per scene (%(default)s)")
    parser.add_argument("--boundaries", type=int, help="so many crashes and full disks per scene (default: all)")
    parser.add_argument("--every-cell", action="store_true", help="every boundary of the benchmark, not one per kind")
    parser.add_argument("--scenes", nargs="+", default=SCENES, choices=SCENES, metavar="SCENE", help=", ".join(SCENES))
    parser.add_argument("--base", default="tiny", help="tiny (random weights, quick) or miniature")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and of what is drawn")
    parser.add_argument("--folder", default=default_folder(), help="where the temporary folder goes (%(default)s)")
    parser.add_argument("--record", type=Path, help="write the figures to this JSON file")
    options = parser.parse_args()
    if options.short:
        vars(options).update(SHORT)
    return options


def main() -> int:
    options = parse_options()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="crash-test-") as name:
        folder = Path(name).resolve()
        options.can_mount = disturb.can_mount(folder)
        if not options.can_mount:
            say("SKIPPED: small disks; mounting is not permitted here (full disks are injected all the same)")
        tallies = run_all(options, folder)
    print_table(tallies)
    findings = [finding for tally in tallies.values() for finding in tally.findings]
    print("\n".join(findings) or "after every disturbance the same command ended in the same bytes")
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main())
