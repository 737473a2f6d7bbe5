"""Every number of the judge against a loop written from its definition, and against the field's libraries."""

from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import save
from delora_eval.maps.agreement import class_shares, count_confusion, score_confusion
from delora_eval.maps.distances import (
    fewest_images,
    frechet_distance,
    kernel_distance,
    measure_distances,
)
from delora_eval.maps.judge import MapJudge, judge_images
from delora_eval.maps.segmenters import Segmenter
from delora_eval.maps.settings import MapJudgeConfig
from delora_sd.errors import UserError
from delora_sd.maps.dataset import MapPair, MapSet
from delora_sd.maps.palette import parse_palette

NUM_LABELS = 5
MAPS = [
    np.array([[1, 1, 2, 2], [1, 1, 2, 2], [0, 0, 3, 3], [0, 0, 3, 3]], dtype=np.uint8),
    np.array([[3, 3, 3, 3], [3, 3, 3, 3], [1, 1, 1, 1], [1, 1, 1, 1]], dtype=np.uint8),
    np.array([[2, 2, 2, 2], [2, 1, 1, 2], [2, 1, 1, 2], [2, 2, 2, 2]], dtype=np.uint8),
    np.array([[3, 0, 0, 3], [3, 0, 0, 3], [3, 1, 1, 3], [3, 1, 1, 3]], dtype=np.uint8),
]
FOUND = [
    np.array([[1, 1, 2, 1], [1, 4, 2, 2], [2, 2, 3, 3], [1, 1, 3, 4]], dtype=np.uint8),
    np.array([[3, 3, 3, 3], [3, 3, 3, 2], [1, 1, 1, 1], [1, 1, 3, 3]], dtype=np.uint8),
    np.array([[2, 2, 2, 2], [2, 2, 1, 2], [2, 1, 1, 2], [2, 2, 1, 1]], dtype=np.uint8),
    np.array([[3, 1, 1, 3], [3, 1, 1, 3], [3, 1, 1, 1], [3, 1, 1, 3]], dtype=np.uint8),
]
"""Label 4 is found and in no map; label 5 is neither found nor in a map; pixels of 0 count nowhere."""


def by_hand() -> dict[str, float]:
    """From the definitions, pixel by pixel."""
    pixels = [
        (m, f) for maps, found in zip(MAPS, FOUND, strict=True) for m, f in zip(maps.flat, found.flat, strict=True)
    ]
    pixels = [(int(m), int(f)) for m, f in pixels if m != 0]
    recalls, shares = [], {}
    for label in range(1, NUM_LABELS + 1):
        drawn = [f for m, f in pixels if m == label]
        if drawn:
            recalls.append(sum(f == label for f in drawn) / len(drawn))
        both = sum(m == label and f == label for m, f in pixels)
        either = sum(m == label or f == label for m, f in pixels)
        shares[label] = both / either if either else None
    known = [share for share in shares.values() if share is not None]
    return {
        "pixel_accuracy": sum(m == f for m, f in pixels) / len(pixels),
        "class_accuracy": sum(recalls) / len(recalls),
        "miou_present": sum(known) / len(known),
        "miou_all": sum(known) / NUM_LABELS,
        "num_present": len(known),
    }


def test_four_maps_by_hand():
    confusion = sum(count_confusion(f, m, NUM_LABELS) for f, m in zip(FOUND, MAPS, strict=True))
    scores = score_confusion(confusion)
    for name, value in by_hand().items():
        assert getattr(scores, name) == pytest.approx(value, abs=1e-6), name
    assert scores.num_present == 4 and class_shares(confusion)[4] is None and class_shares(confusion)[3] == 0
    assert scores.miou_present > scores.miou_all > 0


def test_the_judge_counts_the_same_from_files(tmp_path: Path):
    """Images stand for what is found: their red channel is the label."""
    text = "label,name,red,green,blue\n" + "".join(f"{k},class {k},{k},{k},{k}\n" for k in range(1, NUM_LABELS + 1))
    pairs, files = [], {}
    for index, (labels, found) in enumerate(zip(MAPS, FOUND, strict=True)):
        large = np.kron(labels, np.ones((8, 8), dtype=np.uint8))
        photo = np.stack([np.kron(found, np.ones((8, 8), dtype=np.uint8))] * 3, axis=-1)
        name = f"m{index}"
        files[name] = save(photo, tmp_path / f"{name}.png")
        pairs.append(
            MapPair(name=name, map=save(large, tmp_path / "maps" / f"{name}.png"), photo=files[name], caption="")
        )
    judge = MapJudge(
        config=MapJudgeConfig(batch_size=3),
        map_set=MapSet(pairs=tuple(pairs), palette=parse_palette(text, source="test")),
        geometry="squash",
        segmenter=Segmenter(name="red", find=lambda images, sizes: [np.asarray(image)[..., 0] for image in images]),
        features=("mean colour", lambda images: np.stack([np.asarray(i, dtype=float).mean((0, 1)) for i in images])),
        seen={},
    )
    scores = judge_images(judge, files)
    for name, value in by_hand().items():
        assert scores[name] == pytest.approx(value, abs=1e-6), name
    assert scores["fid"] == pytest.approx(0, abs=1e-6), "images are compared with themselves"
    with pytest.raises(UserError, match=r"no image for 1 of 4 maps \(m3\)"):
        judge_images(judge, {name: file for name, file in files.items() if name != "m3"})


def features(seed: int, number: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(0.2 * seed, 1 + 0.3 * seed, (number, width)) @ rng.normal(size=(width, width)) * 0.5


def test_kernel_distance_is_the_double_loops():
    first, second = features(0, 4, 3), features(1, 4, 3)
    kernel = lambda x, y: (float(x @ y) / 3 + 1) ** 3  # noqa: E731
    within = [sum(kernel(own[i], own[j]) for i in range(4) for j in range(4) if i != j) / 12 for own in (first, second)]
    across = sum(kernel(x, y) for x in first for y in second) / 16
    assert kernel_distance(first, second) == pytest.approx(sum(within) - 2 * across, abs=1e-6)
    assert kernel_distance(first, first) <= 0, "unbiased: equal sets are below zero"


def test_both_distances_agree_with_torchmetrics():
    from torchmetrics.image.fid import _compute_fid
    from torchmetrics.image.kid import poly_mmd

    first, second = features(0, 60, 8), features(1, 60, 8)
    means = [torch.from_numpy(own.mean(axis=0)) for own in (first, second)]
    covariances = [torch.from_numpy(np.cov(own, rowvar=False)) for own in (first, second)]
    theirs = _compute_fid(means[0], covariances[0], means[1], covariances[1]).item()
    assert frechet_distance(first, second) == pytest.approx(theirs, rel=1e-6)
    theirs = poly_mmd(torch.from_numpy(first), torch.from_numpy(second)).item()
    assert kernel_distance(first, second) == pytest.approx(theirs, rel=1e-6)


def test_too_few_images_for_fid_leave_kid():
    assert fewest_images(2048) <= 2000 < fewest_images(2048) * 1.2, "the paper's 2,000 are accepted, few less"
    found = measure_distances(features(0, 6, 8), features(1, 6, 8))
    assert found.fid is None and np.isfinite(found.kid) and (found.num_images, found.fewest_for_fid) == (6, 7)
    with pytest.raises(UserError, match="6 images and 5 photos"):
        measure_distances(features(0, 6, 8), features(1, 5, 8))
