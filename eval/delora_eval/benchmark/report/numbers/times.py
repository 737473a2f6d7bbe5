"""Where the time of a benchmark's cells went, and how much of it is arithmetic (`profile=true`)."""

from typing import Any

from delora_eval.benchmark.folder import profile_file
from delora_eval.benchmark.report.numbers.view import BenchmarkView
from delora_eval.benchmark.settings import generate_settings
from delora_eval.pages.tables import Table
from delora_sd.errors import UserError
from delora_sd.files.records import check_record
from delora_sd.files.run_folder import RunFolder, read_json, read_lines
from delora_sd.settings import TrainingConfig

ARITHMETIC = {
    "train": ("training arithmetic",),
    "generate": ("conditioning", "drawing", "decoding", "judging"),
    "score": ("judging",),
}
"""Parts of a stage in which a network computes what the cell is for; everything else waits, reads, writes, checks."""

_ADVICE = "delete it; it is written again where a cell is computed"


def time_table(view: BenchmarkView) -> Table:
    """Seconds of a cell by stage and part, their share, and the floor: operations at the rate of a large product."""
    profiles = [profile for cell in view.cells if (profile := _read(profile_file(view.folder.run(cell))))]
    totals: dict[tuple[str, str], float] = {}
    for profile in profiles:
        for stage, parts in profile.items():
            for name, seconds in parts.items():
                totals[stage, name] = totals.get((stage, name), 0.0) + seconds
    whole, floors = sum(totals.values()), _floors(view)
    lines = [
        _line(stage, name, seconds / len(profiles), whole / len(profiles), floors.get((stage, name)))
        for (stage, name), seconds in sorted(totals.items(), key=lambda each: -each[1])
    ]
    if profiles:
        arithmetic = sum(seconds for (stage, name), seconds in totals.items() if name in ARITHMETIC.get(stage, ()))
        lines.append(
            _line("all", "arithmetic", arithmetic / len(profiles), whole / len(profiles), sum(floors.values()))
        )
    return Table(
        name="time",
        title="Where the time of a cell goes",
        columns=("Stage", "Part", "Seconds a cell", "Share", "Floor, s"),
        rows=tuple(lines),
        text_columns=2,
        notes=(
            f"Mean over {len(profiles)} cells; of a pack each its share. Arithmetic: training's own, drawing and "
            "decoding the cell's images, judging them; the images of an export's check are none. Floor: "
            "the networks' operations at the rate of a large matrix product on the machine that began the benchmark.",
        ),
    )


def _line(stage: str, name: str, seconds: float, whole: float, floor: float | None) -> tuple[str, ...]:
    return (stage, name, f"{seconds:.2f}", f"{seconds / max(whole, 1e-9):.1%}", "" if floor is None else f"{floor:.2f}")


def _floors(view: BenchmarkView) -> dict[tuple[str, str], float]:
    """Returns {(stage, part): seconds of a mean cell that its operations take at the measured rate}."""
    facts = _read_floor(view)
    cells = [cell for cell in view.cells if cell.path is None]
    if not facts or not cells:
        return {}
    trainings = [view.train_of_rows[cell.row].training for cell in cells if cell.row in view.train_of_rows]
    samples = sum(map(_samples, trainings)) / max(1, len(trainings))
    images = sum(_drawn(view.folder.run(cell)) for cell in cells) / len(cells)
    settings = generate_settings(view.config)
    forwards = settings.num_inference_steps * (2 if settings.guidance > 1 else 1)
    # Frozen weights get no gradient: backward costs one more forward.
    flops = {
        ("train", "training arithmetic"): samples * 2 * facts["unet_flops"],
        ("generate", "drawing"): images * forwards * facts["unet_flops"],
        ("generate", "decoding"): images * facts["decoder_flops"],
    }
    return {part: count / facts["flops_per_second"] for part, count in flops.items()}


def _drawn(run: RunFolder) -> int:
    """Images drawn with the run's adapter; those of the base model are made once per subject and linked."""
    records = [record for file in run.images.glob("*/images.jsonl") for record in read_lines(file)]
    return sum(record.get("strength") != 0 and record.get("step") != 0 for record in records)


def _samples(training: TrainingConfig) -> int:
    """Photos and class images of a whole training."""
    return training.num_steps * training.batch_size * (2 if training.prior_weight else 1)


def _read_floor(view: BenchmarkView) -> dict[str, Any]:
    file, fields = view.folder.profile, dict.fromkeys(("flops_per_second", "unet_flops", "decoder_flops"), float)
    return check_record(read_json(file), fields, source=str(file), advice=_ADVICE) if file.exists() else {}


def _read(file: Any) -> dict[str, dict[str, float]]:
    if not file.exists():
        return {}
    profile = check_record(read_json(file), {}, source=str(file), advice=_ADVICE)
    for stage, parts in profile.items():
        if not isinstance(parts, dict):
            raise UserError(f"{file}: '{stage[:40]}' is no mapping; {_ADVICE}")
        check_record(parts, dict.fromkeys(parts, float), source=f"{file}: {stage[:40]}", advice=_ADVICE)
    return profile
