"""Images against the maps they were drawn from: segmented, counted, compared with the photos."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from delora_eval.maps.agreement import class_shares, count_confusion, score_confusion
from delora_eval.maps.distances import measure_distances
from delora_eval.maps.features import Look, load_features
from delora_eval.maps.segmenters import Segmenter, load_segmenter, segmenter_name
from delora_eval.maps.settings import MapJudgeConfig
from delora_sd.data.photos import open_photo
from delora_sd.errors import UserError
from delora_sd.maps.dataset import MapPair, MapSet
from delora_sd.maps.palette import read_labels
from delora_sd.maps.store import square_image, square_labels

_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class MapJudge:
    """Everything that judges, loaded once for all rows of a table."""

    config: MapJudgeConfig
    map_set: MapSet
    geometry: str
    """How a map and its photo became square."""
    segmenter: Segmenter
    features: tuple[str, Look] | None
    seen: dict[str, np.ndarray]
    """Features of the photos, by size; filled when first asked for."""

    def facts(self) -> dict[str, Any]:
        """Returns what the scores depend on besides the images."""
        return {
            "segmenter": self.segmenter.name,
            "label_geometry": self.config.label_geometry,
            "geometry": self.geometry,
            "features": self.features[0] if self.features else None,
            "num_maps": len(self.map_set.pairs),
        }


def load_judge(config: MapJudgeConfig, map_set: MapSet, *, dataset: str, geometry: str) -> MapJudge:
    """Returns the judge. Raises UserError: missing weights, or a segmenter of other classes."""
    name = segmenter_name(config, dataset)
    return MapJudge(
        config=config,
        map_set=map_set,
        geometry=geometry,
        segmenter=load_segmenter(config, name, map_set.palette),
        features=load_features(config, name),
        seen={},
    )


def judge_images(judge: MapJudge, files: Mapping[str, Path]) -> dict[str, Any]:
    """Returns the scores of one image per map, {map's name: image}.

    Raises:
        UserError: maps without an image, or images of different sizes.
    """
    missing = [pair.name for pair in judge.map_set.pairs if pair.name not in files]
    if missing:
        shown = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        raise UserError(f"no image for {len(missing)} of {len(judge.map_set.pairs)} maps ({shown}); draw them first")
    return _judge(judge, lambda pair: open_photo(files[pair.name]))


def judge_photos(judge: MapJudge, size_px: int) -> dict[str, Any]:
    """Returns the scores of the photos themselves, as large as the images: the row that identifies the segmenter."""
    return _judge(judge, lambda pair: square_image(open_photo(pair.photo), size_px, judge.geometry))


def _judge(judge: MapJudge, read: Callable[[MapPair], Image.Image]) -> dict[str, Any]:
    num_labels, step = judge.map_set.palette.num_labels, judge.config.batch_size
    confusion, features = np.zeros((num_labels, num_labels), dtype=np.int64), []
    for start in range(0, len(judge.map_set.pairs), step):
        pairs = judge.map_set.pairs[start : start + step]
        images = [read(pair) for pair in pairs]
        _check_square(images, pairs)
        labels = [_labels(judge, pair, image) for pair, image in zip(pairs, images, strict=True)]
        found = judge.segmenter.find(images, [own.shape for own in labels])
        confusion += sum(count_confusion(one, own, num_labels) for one, own in zip(found, labels, strict=True))
        if judge.features:
            features.append(judge.features[1](images))
    scores = asdict(score_confusion(confusion)) | {"classes": class_shares(confusion), "judge": judge.facts()}
    if not features:
        return scores
    return scores | asdict(measure_distances(np.concatenate(features), _photo_features(judge, images[0].width)))


def _check_square(images: Sequence[Image.Image], pairs: Sequence[MapPair]) -> None:
    for image, pair in zip(images, pairs, strict=True):
        if image.size != (images[0].width, images[0].width):
            raise UserError(f"image of {pair.name}: {image.width} x {image.height} px; expected squares of one size")


def _labels(judge: MapJudge, pair: MapPair, image: Image.Image) -> np.ndarray:
    labels = read_labels(pair.map, judge.map_set.palette)
    if judge.config.label_geometry == "image" or judge.geometry == "crop":
        return square_labels(labels, image.width, judge.geometry)
    return labels


def _photo_features(judge: MapJudge, size_px: int) -> np.ndarray:
    key = str(size_px)
    if key not in judge.seen:
        step, pairs = judge.config.batch_size, judge.map_set.pairs
        judge.seen[key] = np.concatenate(
            [
                judge.features[1](
                    [
                        square_image(open_photo(pair.photo), size_px, judge.geometry)
                        for pair in pairs[start : start + step]
                    ]
                )
                for start in range(0, len(pairs), step)
            ]
        )
    return judge.seen[key]
