"""`delora-sd protocols DATASET`: the Real Images row under every combination, beside the rows papers printed.

Whoever has the weights learns in a minute which protocol a published table used.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from delora_eval.scoring.judges.embedding import Judge, embed_images, use_weights
from delora_eval.scoring.judges.protocols import PUBLISHED_REAL_ROWS, Protocol, combinations
from delora_eval.scoring.measures.measure import measure_ceiling
from delora_eval.scoring.measures.metrics import PairMean, pool
from delora_eval.scoring.record.summary import RANDOM_STAMP
from delora_eval.settings import ProtocolsConfig
from delora_sd.data.subjects import Subject, load_subject, subject_names
from delora_sd.files.run_folder import write_lines
from delora_sd.progress import ProgressDisplay
from delora_sd.settings import DataConfig

MATCH = 0.0015
"""Two rows printed with three digits are the same protocol when both scores are this close."""


@dataclass(frozen=True, kw_only=True)
class RealRow:
    """The Real Images row of a dataset under one protocol."""

    protocol: Protocol
    dino: PairMean
    clip_i: PairMean


def print_protocols(config: ProtocolsConfig) -> None:
    """Prints the table, and writes it as JSON lines where asked to."""
    subjects = [
        load_subject(DataConfig(subject=name, dataset=config.dataset)) for name in subject_names(config.dataset)
    ]
    judge = Judge(config=config.encoders)
    rows = real_rows(judge, subjects, combinations())
    is_random = any(weights.is_random for weights in judge.weights.values())
    photos = sum(len(subject.photos) for subject in subjects)
    print(f"Real Images: {len(subjects)} subjects, {photos} photos of {config.dataset}")
    print(render_rows(rows, is_random=is_random))
    if config.output:
        write_lines(Path(config.output).expanduser(), [_to_line(row, judge) for row in rows])
        print(f"table: {config.output}")


def real_rows(judge: Judge, subjects: Sequence[Subject], protocols: Sequence[Protocol]) -> list[RealRow]:
    """Returns one row per protocol; a photo is decoded once for all of them."""
    views = list(dict.fromkeys(view for protocol in protocols for view in (protocol.dino, protocol.clip)))
    for view in views:
        use_weights(judge, view.encoder)
    num_photos = sum(len(subject.photos) for subject in subjects)
    with ProgressDisplay("real photos", total=num_photos, unit="photos") as progress:
        for subject in subjects:
            embed_images(judge, subject.photos, views)
            progress.advance(len(subject.photos))
    return [_real_row(judge, subjects, protocol) for protocol in protocols]


def render_rows(rows: Sequence[RealRow], *, is_random: bool) -> str:
    """Returns the rows and the published ones, aligned; a row that equals a published one says whose."""
    width = max(len(row.protocol.name) for row in rows)
    lines = [f"{'protocol':<{width}}  DINO   CLIP-I  pairs"]
    for row in rows:
        stamp = "RANDOM" if is_random else _published_like(row)
        numbers = f"{row.dino.value:.3f}  {row.clip_i.value:.3f}   {row.dino.pairs:<5}"
        lines.append(f"{row.protocol.name:<{width}}  {numbers}  {stamp}".rstrip())
    lines += ["", "published Real Images rows:"]
    lines += [f"{name:<{width}}  {dino:.3f}  {clip:.3f}" for name, (dino, clip) in PUBLISHED_REAL_ROWS.items()]
    return "\n".join([*lines, RANDOM_STAMP] if is_random else lines)


def _real_row(judge: Judge, subjects: Sequence[Subject], protocol: Protocol) -> RealRow:
    means: dict[str, list[PairMean]] = {"real_dino": [], "real_clip_i": []}
    for subject in subjects:
        dino, clip = embed_images(judge, subject.photos, [protocol.dino, protocol.clip])
        for score in measure_ceiling(dino, clip, keeps_self_pairs=protocol.keeps_self_pairs):
            means[score.name].append(score.total)
    dino, clip_i = (pool(means[name], protocol.pooling) for name in ("real_dino", "real_clip_i"))
    return RealRow(protocol=protocol, dino=dino, clip_i=clip_i)


def _published_like(row: RealRow) -> str:
    notes = []
    for name, (dino, clip_i) in PUBLISHED_REAL_ROWS.items():
        same = (abs(row.dino.value - dino) <= MATCH, abs(row.clip_i.value - clip_i) <= MATCH)
        if any(same):
            notes.append(f"{name}: " + {(True, True): "both", (True, False): "DINO", (False, True): "CLIP-I"}[same])
    return "; ".join(notes)


def _to_line(row: RealRow, judge: Judge) -> dict:
    dino, clip = (use_weights(judge, view.encoder) for view in (row.protocol.dino, row.protocol.clip))
    return {
        "protocol": row.protocol.name,
        "real_dino": round(row.dino.value, 6),
        "real_clip_i": round(row.clip_i.value, 6),
        "pairs": row.dino.pairs,
        "photos": row.dino.images,
        "encoders": {"dino": dino.spec.id, "clip": clip.spec.id},
        "weights": {"dino": dino.hash, "clip": clip.hash},
        "random_weights": dino.is_random or clip.is_random,
    }
