"""The pretraining set on disk: shards of rendered pictures with their captions, written once, read as one array.

Pictures come in groups of `PICTURES_EACH` per identity; group g holds rows g*PICTURES_EACH onwards.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from delora_sd.miniature.world.captions import caption_of, plain_caption
from delora_sd.miniature.world.render import SIZE_PX, render
from delora_sd.miniature.world.things.identity import draw_identity, hard_negative, typical_identity
from delora_sd.miniature.world.things.scene import draw_scene

PICTURES_EACH = 4
CAPTIONS_EACH = 4  # differing in colour word, strange word and prefix
GROUPS_PER_SHARD = 500
TRAIN_SEED, TEST_SEED = 20_000_000, 90_000_000


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is known of one picture: its identity's key, its words, its plain caption and its pretraining captions."""

    identity: str
    class_word: str
    colour: str
    place: str | None
    finish: str | None
    outfit: str | None
    plain: str
    captions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """`pixels` (pictures, side, side, 3) uint8 with one record each."""

    pixels: np.ndarray
    records: tuple[Record, ...]


def render_group(seed: int, *, held_out: bool) -> tuple[np.ndarray, list[Record]]:
    """`PICTURES_EACH` pictures of one identity; every second pair of groups has the looks typical of a class,
    in the others the second is a hard negative of the first."""
    partner = np.random.default_rng(seed - seed % 2)
    is_typical = not held_out and seed // 2 % 2 == 0
    identity = typical_identity(partner) if is_typical else draw_identity(partner, held_out=held_out)
    if seed % 2 and is_typical:
        identity = typical_identity(partner)
    elif seed % 2:
        identity = hard_negative(partner, identity, held_out=held_out)
    rng = np.random.default_rng([seed, 7])
    pixels, records = [], []
    for _ in range(PICTURES_EACH):
        scene = draw_scene(rng, identity)
        pixels.append(np.asarray(render(scene, SIZE_PX)))
        records.append(
            Record(
                identity=identity.key,
                class_word=identity.class_word,
                colour=identity.main,
                place=scene.place,
                finish=scene.finish,
                outfit=scene.outfit,
                plain=plain_caption(scene),
                captions=tuple(caption_of(scene, rng) for _ in range(CAPTIONS_EACH)),
            )
        )
    return np.stack(pixels), records


def render_pictures(first_seed: int, num_groups: int, *, held_out: bool) -> Pictures:
    """Groups rendered in memory: for tests and measurements."""
    groups = [render_group(first_seed + index, held_out=held_out) for index in range(num_groups)]
    return _joined(groups)


def render_shards(folder: Path, num_groups: int, *, workers: int, say: Callable[[str], None]) -> None:
    """Writes the missing shards of the pretraining set; the same command again goes on where it stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = range(0, num_groups, GROUPS_PER_SHARD)
    missing = [first for first in shards if not _shard_path(folder, first).with_suffix(".jsonl").exists()]
    with get_context("spawn").Pool(workers) as pool:
        for done, first in enumerate(pool.imap(_write_shard, [(folder, first) for first in missing]), start=1):
            say(f"render: shard {first // GROUPS_PER_SHARD} ({done}/{len(missing)})")


def load_shards(folder: Path, num_groups: int) -> Pictures:
    """The pretraining set of `num_groups` identities as one array."""
    firsts = range(0, num_groups, GROUPS_PER_SHARD)
    pixels = np.concatenate([np.load(_shard_path(folder, first)) for first in firsts])
    tables = [_shard_path(folder, first).with_suffix(".jsonl").read_text(encoding="utf-8") for first in firsts]
    lines = [line for table in tables for line in table.splitlines()]
    return Pictures(pixels=pixels, records=tuple(_record(json.loads(line)) for line in lines))


def _write_shard(task: tuple[Path, int]) -> int:
    folder, first = task
    shard = render_pictures(TRAIN_SEED + first, GROUPS_PER_SHARD, held_out=False)
    path = _shard_path(folder, first)
    np.save(path, shard.pixels)
    lines = "".join(json.dumps(asdict(record)) + "\n" for record in shard.records)
    path.with_suffix(".part").write_text(lines, encoding="utf-8")
    path.with_suffix(".part").rename(path.with_suffix(".jsonl"))  # last: its presence says that the shard is whole
    return first


def _shard_path(folder: Path, first_group: int) -> Path:
    return folder / f"pictures-{first_group:06d}.npy"


def _record(fields: dict) -> Record:
    return Record(**{**fields, "captions": tuple(fields["captions"])})


def _joined(groups: Iterable[tuple[np.ndarray, list[Record]]]) -> Pictures:
    pixels, records = zip(*groups, strict=True)
    return Pictures(pixels=np.concatenate(pixels), records=tuple(record for group in records for record in group))
