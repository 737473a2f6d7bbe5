"""Photos keep their shape: buckets of nearly equal area, each photo in the nearest, the crop told as it was made."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from delora_sd.data.buckets import bucket_shapes, load_shape, photos_by_shape, shape_of_photo

SHAPES = bucket_shapes(1024, 64)


def test_shapes_are_whole_steps_of_nearly_the_squares_area_and_turned_ones_are_there_too():
    assert (1024, 1024) in SHAPES and (832, 1216) in SHAPES and (896, 1152) in SHAPES
    for height, width in SHAPES:
        assert height % 64 == width % 64 == 0 and 0.5 <= height / width <= 2
        assert 0.9 * 1024**2 <= height * width <= 1024**2
        assert (width, height) in SHAPES


def save(file: Path, height: int, width: int) -> Path:
    Image.new("RGB", (width, height)).save(file)
    return file


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        ((3000, 3000), (1024, 1024)),
        ((3000, 4000), (896, 1152)),
        ((4000, 3000), (1152, 896)),
        ((900, 9000), (704, 1408)),
    ],
)
def test_a_photo_goes_to_the_shape_of_its_ratio(size: tuple[int, int], shape: tuple[int, int], tmp_path: Path):
    assert shape_of_photo(save(tmp_path / "a.png", *size), SHAPES) == shape


def test_photos_are_grouped_by_shape_in_their_order(tmp_path: Path):
    files = [save(tmp_path / f"{i}.png", *size) for i, size in enumerate([(30, 40), (40, 30), (33, 44), (50, 50)])]
    assert photos_by_shape(files, SHAPES) == {(896, 1152): (0, 2), (1024, 1024): (3,), (1152, 896): (1,)}


def test_nothing_is_squeezed_and_the_crop_is_told_as_it_was_made(tmp_path: Path):
    """A photo twice as wide as its shape asks: the middle half is kept, circles stay round."""
    across, down = np.meshgrid(np.arange(80), np.arange(20))
    Image.fromarray(np.stack([across, down, across], axis=2).astype(np.uint8)).save(tmp_path / "a.png")
    seen = load_shape(tmp_path / "a.png", (20, 40))
    shaped = np.asarray(seen.image)
    assert shaped.shape == (20, 40, 3)
    assert shaped[0, :, 0].tolist() == list(range(20, 60)) and shaped[:, 0, 1].tolist() == list(range(20))
    assert seen.shows == (20, 80, 0, 20, 20, 40)
    enlarged = load_shape(tmp_path / "a.png", (40, 80))
    assert enlarged.shows == (20, 80, 0, 40, 40, 80), "measured after the photo was scaled"


def test_a_square_is_the_one_of_the_papers_protocol(photo_folder: Path):
    from delora_sd.data.photos import load_square

    for file in photo_folder.iterdir():
        ours, square = load_shape(file, (32, 32)), load_square(file, 32)
        assert ours.image.tobytes() == square.image.tobytes() and ours.shows == square.shows
