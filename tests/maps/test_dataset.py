"""Layouts, splits and captions: which map belongs to which photo, and what is said when one does not."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import save
from delora_sd.errors import UserError
from delora_sd.maps.captions import read_captions
from delora_sd.maps.dataset import check_sizes, find_map_set, list_maps
from delora_sd.maps.settings import MapDataConfig

GREY = np.full((20, 30), 7, dtype=np.uint8)
PHOTO = np.full((20, 30, 3), 99, dtype=np.uint8)


@pytest.fixture
def scenes(tmp_path: Path) -> MapDataConfig:
    """SceneParse150's layout: five training pairs, one for validation."""
    for side, count in (("training", 5), ("validation", 1)):
        for index in range(count):
            save(GREY, tmp_path / "annotations" / side / f"ADE_{index}.png")
            save(PHOTO, tmp_path / "images" / side / f"ADE_{index}.jpg")
    lines = [f"ADE_{index} airport_terminal" for index in range(5)]
    (tmp_path / "sceneCategories.txt").write_text("\n".join(lines))
    return MapDataConfig(dataset=str(tmp_path), captions="scenes", search_maps=2)


def test_scene_parse_pairs_by_name_with_its_scene_categories(scenes: MapDataConfig):
    (pair,) = find_map_set(scenes, "test").pairs
    assert (pair.name, pair.photo.name, pair.caption) == ("ADE_0", "ADE_0.jpg", "an airport terminal")


def test_search_maps_are_apart_from_training_and_all_are_one_of_both(scenes: MapDataConfig):
    train, search = ({pair.name for pair in find_map_set(scenes, split).pairs} for split in ("train", "search"))
    assert len(train) == 3 and len(search) == 2 and train | search == {f"ADE_{index}" for index in range(5)}
    assert len(find_map_set(replace(scenes, limit=1), "train").pairs) == 1


def test_oft_lists_are_found(tmp_path: Path):
    save(GREY, tmp_path / "val" / "segm" / "0.png")
    save(PHOTO, tmp_path / "val" / "color" / "0.png")
    line = {"source": "val/segm/0.png", "target": "val/color/0.png", "prompt": "a living room"}
    (tmp_path / "val" / "prompt_val_blip_full.json").write_text(json.dumps(line) + "\n")
    config = MapDataConfig(dataset=str(tmp_path), template="{caption}, ")
    assert find_map_set(config, "test").pairs[0].caption == "a living room, "


def test_a_map_without_a_photo_and_a_photo_without_a_map_are_named(scenes: MapDataConfig, tmp_path: Path):
    (tmp_path / "images" / "training" / "ADE_3.jpg").unlink()
    with pytest.raises(UserError, match=r"no photo for 1 of 5 names \(ADE_3\)"):
        find_map_set(scenes, "train")
    save(PHOTO, tmp_path / "images" / "training" / "ADE_3.jpg")
    (tmp_path / "annotations" / "training" / "ADE_1.png").unlink()
    with pytest.raises(UserError, match=r"no map for 1 of 5 names \(ADE_1\)"):
        find_map_set(scenes, "train")


def test_a_map_of_another_size_than_its_photo_is_refused(scenes: MapDataConfig, tmp_path: Path):
    save(GREY[:10], tmp_path / "annotations" / "validation" / "ADE_0.png")
    with pytest.raises(UserError, match=r"ADE_0.png is 30 x 10 px, its photo ADE_0.jpg 30 x 20"):
        check_sizes(find_map_set(scenes, "test").pairs)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dataset": "/nowhere/at/all"}, "no maps in it; expected annotations/training"),
        ({"captions": None}, "brings none; give a file"),
        ({"search_maps": 5}, "of 5 training maps"),
        ({"limit": 9}, "expected 1 to 3"),
    ],
)
def test_settings_that_find_nothing_are_refused(scenes: MapDataConfig, changes: dict, words: str):
    with pytest.raises(UserError, match=words):
        find_map_set(replace(scenes, **changes), "train")


def test_captions_of_every_kind_say_the_same(tmp_path: Path):
    texts = {
        "a.json": '{"x.png": "a room", "y": "a street", "z": "not asked for"}',
        "a.jsonl": '{"file_name": "x.png", "text": "a room"}\n{"file_name": "y.png", "text": "a  street"}\n',
        "a.csv": "file_name,text\nx.png,a room\ny.png,a street\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        assert read_captions(tmp_path / name, ["x", "y"]) == {"x": "a room", "y": "a street"}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", '{"x": "one", "x": "two"}', "two captions for 'x'"),
        ("a.jsonl", '{"file_name": "x", "text": "1"}\n{"file_name": "x.png", "text": "2"}', "two captions for 'x'"),
        ("a.json", '{"y": "one"}', r"no caption for 1 of 1 maps \(x\)"),
        ("a.json", '{"x": 3}', "is no text"),
        ("a.jsonl", '{"name": "x"}', "entry 1: expected `file_name` and `text`"),
        ("a.json", "{", "cannot be read"),
    ],
)
def test_captions_that_are_double_missing_or_none_are_refused(name: str, text: str, words: str, tmp_path: Path):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=words):
        read_captions(tmp_path / name, ["x"])


def test_maps_of_ones_own_need_a_folder_with_some(tmp_path: Path, map_folder: Path):
    with pytest.raises(UserError, match="no such folder"):
        list_maps(tmp_path / "none")
    with pytest.raises(UserError, match="no maps"):
        list_maps(tmp_path)
    shutil.copy(map_folder / "val" / "maps" / "val-0000.png", tmp_path / "b.png")
    assert [file.name for file in list_maps(tmp_path)] == ["b.png"]
