"""`delora-sd score-maps FOLDER`: one folder of images against a dataset's maps."""

from pathlib import Path
from typing import Any

from delora_eval.maps.judge import judge_images, load_judge
from delora_eval.maps.settings import ScoreMapsConfig
from delora_eval.maps.table_run import SCORES
from delora_sd.data.photo_files import find_photos
from delora_sd.errors import UserError
from delora_sd.files.run_folder import write_json
from delora_sd.generation.requests import LISTING, read_listing
from delora_sd.maps.dataset import find_map_set

_SHOWN = {
    "miou_present": "mIoU",
    "miou_all": "mIoU (absent = 0)",
    "pixel_accuracy": "pixel accuracy",
    "class_accuracy": "class accuracy",
}


def score_maps(config: ScoreMapsConfig) -> list[str]:
    """Writes the scores and returns what is printed.

    Raises:
        UserError: no images, maps without one, or a judge that cannot work.
    """
    if not config.images:
        raise UserError("which images: delora-sd score-maps FOLDER data.dataset=...")
    folder = Path(config.images).expanduser()
    map_set = find_map_set(config.data, config.split)
    judge = load_judge(config.judge, map_set, dataset=config.data.dataset, geometry=config.data.geometry)
    scores = judge_images(judge, _images(folder))
    output = Path(config.output).expanduser() if config.output else folder / SCORES
    write_json(output, scores)
    return [*_lines(scores), f"scores: {output}"]


def _images(folder: Path) -> dict[str, Path]:
    """Returns {map's name: image}; a listed set says which map each is of, else their names do."""
    records = read_listing(folder / LISTING)
    if records and all("map" in record for record in records):
        named = [(Path(record["map"]).stem, folder / record["file"]) for record in records]
    else:
        named = [(file.stem, file) for file in find_photos(folder)]
    for name in {name for name, _ in named}:
        if len(own := [file for other, file in named if other == name]) > 1:
            raise UserError(f"{folder}: {len(own)} images of map '{name}', such as {own[0].name}; keep one of each")
    return dict(named)


def _lines(scores: dict[str, Any]) -> list[str]:
    lines = [f"{title}: {100 * scores[key]:.2f} %" for key, title in _SHOWN.items()]
    if scores.get("kid") is not None:
        too_few = f"left out: {scores['num_images']} images, at least {scores['fewest_for_fid']} are needed"
        fid = too_few if scores["fid"] is None else f"{scores['fid']:.2f}"
        lines.append(f"FID: {fid}; KID x 1000: {1000 * scores['kid']:.2f} (spread {1000 * scores['kid_spread']:.2f})")
    return lines
