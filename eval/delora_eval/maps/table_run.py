"""`delora-sd benchmark-maps CONFIG`: every row trained, drawn and judged, then the table.

One command, one process; stopped anywhere, the same command goes on and ends in the same table.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delora_eval.maps.judge import MapJudge, judge_images, judge_photos, load_judge
from delora_eval.maps.report import write_report
from delora_eval.maps.rows import NO_CONTROL, REAL, Row, read_rows, shared_training
from delora_eval.maps.settings import MapBenchmarkConfig
from delora_sd.adapters.attach import is_packable
from delora_sd.config.load import to_yaml
from delora_sd.data.prompts import Prompt
from delora_sd.diffusion.bases import find_base
from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder, read_json, write_json, write_text
from delora_sd.generation.model import ModelKeeper
from delora_sd.generation.requests import LISTING, SamplingSettings, read_listing
from delora_sd.maps.dataset import MapSet, find_map_set
from delora_sd.maps.draw import MapImage, MapSource, draw_maps, seed_of_map
from delora_sd.maps.encoder import CONTROL_FOLDER
from delora_sd.maps.recipe import train_map_pack
from delora_sd.maps.settings import MapTrainConfig

SCORES = "map_scores.json"
"""In the folder of an image set."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all rows share while the table is made."""

    config: MapBenchmarkConfig
    folder: Path
    training: MapTrainConfig
    """What all trainings have in common."""
    keeper: ModelKeeper
    judges: dict[str, MapJudge]
    """By split; loaded when first needed."""


def run_map_benchmark(config: MapBenchmarkConfig) -> Path:
    """Returns the page; trains, draws and judges what is missing.

    Raises:
        UserError: settings, maps, a base or a segmenter that cannot work, or a training that diverged.
        Stopped: SIGTERM or Ctrl-C came; what was made is kept.
    """
    rows, folder = read_rows(config), Path(config.output_dir).expanduser()
    bench = Bench(config=config, folder=folder, training=shared_training(config), keeper=ModelKeeper(), judges={})
    find_map_set(bench.training.data, config.split)
    with RunFolder(folder).lock():
        write_text(folder / "benchmark.yaml", to_yaml(config))
        began = time.monotonic()
        scores = {REAL: _real(bench), NO_CONTROL: _no_control(bench)}
        for row in rows:
            scores[row.name] = _run_row(bench, row)
        page = write_report(
            config, rows, scores, folder=folder, map_set=find_map_set(bench.training.data, config.split)
        )
        _remember_time(folder, time.monotonic() - began)
    return page


def _remember_time(folder: Path, seconds: float) -> None:
    """Adds up over calls; the page does not show it, so that a resumed table is the same file."""
    file = folder / "time.json"
    before = read_json(file)["seconds"] if file.exists() else 0.0
    write_json(file, {"seconds": round(before + seconds, 1)})


def _real(bench: Bench) -> dict[str, Any]:
    file = bench.folder / "runs" / REAL / SCORES
    judge = _judge(bench, bench.config.split)
    if not _is_scored(file, judge, []):
        size_px = find_base(bench.training.model).size_px
        write_json(file, judge_photos(judge, size_px) | {"images": []})
    return read_json(file)


def _no_control(bench: Bench) -> dict[str, Any]:
    """The base as it is: the same captions and noise, the maps not shown."""
    folder = bench.folder / "runs" / NO_CONTROL
    source = MapSource(
        model=bench.training.model,
        adapters={},
        control=None,
        palette=_map_set(bench, bench.config.split).palette,
        geometry=bench.training.data.geometry,
        images=folder / "images",
    )
    return _score(bench, _draw(bench, source, bench.config.split), bench.config.split)


def _run_row(bench: Bench, row: Row) -> dict[str, Any]:
    _train(list(row.trainings.values()))
    factor = _best_factor(bench, row)
    source = _trained_source(bench, row.run_of(factor))
    found = _score(bench, _draw(bench, source, bench.config.split), bench.config.split)
    manifest = RunFolder(row.run_of(factor)).read_manifest()
    facts = {key: manifest[key] for key in ("trainable_parameters", "control_parameters", "finished_step")}
    return found | facts | {"factor": factor, "lr": row.trainings[factor].optimizer.lr}


def _train(trainings: Sequence[MapTrainConfig]) -> None:
    """Trains the rates of a row in one pack where its method packs; else one after the other."""
    first = trainings[0]
    packs = [list(trainings)] if first.control.alone or is_packable(first.adapter.method) else [[t] for t in trainings]
    for pack in packs:
        for run in train_map_pack(pack):
            if failure := run.read_failure():
                raise UserError(f"{run.path}: {failure['reason']}; use a smaller optimizer.lr")


def _best_factor(bench: Bench, row: Row) -> float:
    """Returns the factor on the rate with the best mIoU on the search split; test maps are not looked at."""
    if len(row.trainings) == 1:
        return next(iter(row.trainings))
    found = {
        factor: _score(bench, _draw(bench, _trained_source(bench, row.run_of(factor)), "search"), "search")
        for factor in row.trainings
    }
    return max(found, key=lambda factor: (found[factor]["miou_present"], -factor))


def _trained_source(bench: Bench, run: Path) -> MapSource:
    training = bench.training
    has_adapter = (run / "adapter").is_dir()
    return MapSource(
        model=training.model,
        adapters={run / "adapter": 1.0} if has_adapter else {},
        control=run / CONTROL_FOLDER,
        palette=_map_set(bench, bench.config.split).palette,
        geometry=training.data.geometry,
        images=run / "images",
        run=RunFolder(run),
    )


def _map_set(bench: Bench, split: str) -> MapSet:
    return _judge(bench, split).map_set


def _judge(bench: Bench, split: str) -> MapJudge:
    if split not in bench.judges:
        data = bench.training.data
        map_set = find_map_set(data, split)
        bench.judges[split] = load_judge(bench.config.judge, map_set, dataset=data.dataset, geometry=data.geometry)
    return bench.judges[split]


def _draw(bench: Bench, source: MapSource, split: str) -> Path:
    config = bench.config
    sampling = SamplingSettings(
        num_inference_steps=config.num_inference_steps,
        guidance=float(config.guidance),
        negative_prompt="",
        size_px=bench.keeper.find(source.model).size_px,
        solver=config.solver,
    )
    wanted = [
        MapImage(
            map=pair.map,
            prompt=Prompt(index=0, template=pair.caption, text=pair.caption),
            seed=seed_of_map(pair.name, config.seed),
        )
        for pair in _map_set(bench, split).pairs
    ]
    return draw_maps(source, wanted, sampling, batch_size=config.batch_size, keeper=bench.keeper)


def _score(bench: Bench, folder: Path, split: str) -> dict[str, Any]:
    """Returns the scores of an image set; they are counted again only for other images or another judge."""
    judge, file = _judge(bench, split), folder / SCORES
    records = read_listing(folder / LISTING)
    names = sorted(record["file"] for record in records)
    if not _is_scored(file, judge, names):
        images = {Path(record["map"]).stem: folder / record["file"] for record in records}
        write_json(file, judge_images(judge, images) | {"images": names, "folder": folder.name})
    return read_json(file) | {"path": str(folder)}


def _is_scored(file: Path, judge: MapJudge, names: list[str]) -> bool:
    if not file.exists():
        return False
    known = read_json(file)
    return isinstance(known, dict) and known.get("judge") == judge.facts() and known.get("images") == names
