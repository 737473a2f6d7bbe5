"""A map's file to labels: every encoding, and what is no map."""

import numpy as np
import pytest
from PIL import Image

from delora_sd.errors import UserError
from delora_sd.maps.palette import find_palette, parse_palette, read_labels, scene_parse_150

LABELS = np.array([[0, 1, 2], [150, 88, 1]], dtype=np.uint8)


@pytest.fixture
def palette():
    return scene_parse_150()


def write(image: Image.Image, folder, name: str = "map.png"):
    image.save(folder / name)
    return folder / name


def test_scene_parse_has_150_classes_and_one_colour_twice(palette):
    assert palette.num_labels == 150 and palette.names[0] == "wall" and palette.names[149] == "flag"
    shared = [name for name, colour in zip(palette.names, palette.colours[1:], strict=True) if (colour == 140).all()]
    assert shared == ["road", "skyscraper"] and len({tuple(colour) for colour in palette.colours}) == 150


@pytest.mark.parametrize("encoding", ["grey", "colours", "opaque alpha", "indexed by colour", "indexed by label"])
def test_every_encoding_gives_the_same_labels(encoding: str, palette, tmp_path):
    colours = Image.fromarray(palette.colours[LABELS])
    indexed = Image.fromarray(LABELS, "P") if encoding == "indexed by label" else None
    if indexed:
        indexed.putpalette([(7 * index + 3) % 256 for index in range(768)])
    image = {
        "grey": Image.fromarray(LABELS),
        "colours": colours,
        "opaque alpha": colours.convert("RGBA"),
        "indexed by colour": colours.quantize(8, dither=Image.Dither.NONE),
        "indexed by label": indexed,
    }[encoding]
    assert (read_labels(write(image, tmp_path), palette) == LABELS).all()


def test_ade20k_codes_are_read_and_other_classes_are_none(palette, tmp_path):
    wall, flag, other = palette.ade20k[0], palette.ade20k[149], 3000
    numbers = np.array([[wall, flag, other]])
    pixels = np.stack([numbers // 256 * 10, numbers % 256, np.array([[9, 0, 77]])], axis=-1).astype(np.uint8)
    assert other not in palette.ade20k
    assert read_labels(write(Image.fromarray(pixels), tmp_path), palette).tolist() == [[1, 150, 0]]


def test_an_unknown_colour_is_named_with_its_file_and_pixel(palette, tmp_path):
    pixels = palette.colours[LABELS]
    pixels[1, 2] = (1, 2, 3)
    with pytest.raises(UserError, match=r"bad\.png: pixel \(2, 1\) has the colour \(1, 2, 3\)"):
        read_labels(write(Image.fromarray(pixels), tmp_path, "bad.png"), palette)


def test_blended_edges_of_a_scaled_map_are_refused(palette, tmp_path):
    blended = Image.fromarray(palette.colours[LABELS]).resize((12, 8), Image.Resampling.BILINEAR)
    with pytest.raises(UserError, match="without blending"):
        read_labels(write(blended, tmp_path), palette)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (Image.new("L", (3, 2), 151), r"pixel \(0, 0\) has the value 151; expected labels 0 \(none\) to 150"),
        (Image.new("L", (3, 2), 0), "no pixel shows any of the 150 classes"),
        (Image.new("RGBA", (3, 2), (120, 120, 120, 9)), "transparent"),
    ],
)
def test_what_is_no_map_is_refused(image: Image.Image, words: str, palette, tmp_path):
    with pytest.raises(UserError, match=words):
        read_labels(write(image, tmp_path), palette)


def test_a_lossy_map_is_refused(palette, tmp_path):
    with pytest.raises(UserError, match=r"JPEG does not; save it as \.png"):
        read_labels(write(Image.fromarray(palette.colours[LABELS]), tmp_path, "map.jpg"), palette)


def test_a_dataset_brings_its_own_palette(map_folder):
    palette = find_palette(map_folder)
    assert palette.names[0] == "wall" and palette.names[-1] == "vase" and palette.num_labels == 34


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,red\nwall,1\n", "expected the columns"),
        ("label,name,red,green,blue\n2,wall,1,2,3\n", "expected label 1"),
        ("label,name,red,green,blue\n1,wall,1,2,300\n", "is no colour"),
        ("label,name,red,green,blue\n1,wall,0,0,0\n", "is no colour"),
    ],
)
def test_a_broken_palette_is_refused(text: str, words: str):
    with pytest.raises(UserError, match=words):
        parse_palette(text, source="palette.csv")
