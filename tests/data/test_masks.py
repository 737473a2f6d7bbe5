"""Masks of photos: where they are looked for, and everything that is wrong with one is said."""

import numpy as np
import pytest
from PIL import Image

from delora_sd.data.masks import find_masks, load_mask, load_square_mask
from delora_sd.data.photos import open_alpha
from delora_sd.errors import UserError


@pytest.fixture
def photos(tmp_path):
    """Two opaque photos of 40 x 30 px and a folder of masks, still empty."""
    files = []
    for name in ("a", "b"):
        files.append(tmp_path / "rex" / f"{name}.jpg")
        files[-1].parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30), "teal").save(files[-1])
    (tmp_path / "rex" / "masks").mkdir()
    return files


def write_mask(photo, values, name=None, mode=None):
    file = photo.parent / "masks" / f"{name or photo.stem}.png"
    Image.fromarray(np.asarray(values, dtype=np.uint8), mode=mode).save(file)
    return file


def half(value=255):
    mask = np.zeros((30, 40), dtype=np.uint8)
    mask[:, :20] = value
    return mask


def test_a_mask_beside_the_photo_is_found_by_its_stem_and_says_how_much_is_the_subject(photos):
    expected = [write_mask(photo, half(200)) for photo in photos]
    assert list(find_masks(photos)) == expected
    mask = load_mask(photos[0], expected[0])
    assert mask.shape == (30, 40) and mask.dtype == np.float32
    assert mask[0, 0] == pytest.approx(200 / 255) and mask[0, 39] == 0


def test_values_0_and_1_count_as_black_and_white(photos):
    assert load_mask(photos[0], write_mask(photos[0], half(1))).max() == 1


def test_the_alpha_channel_is_a_mask_and_a_file_beside_comes_first(photos):
    photo = photos[0].parent / "c.png"
    Image.fromarray(np.dstack([np.full((30, 40, 3), 90, dtype=np.uint8), half()])).save(photo)
    assert find_masks([photo]) == (photo,)
    np.testing.assert_array_equal(load_mask(photo, photo), half() / np.float32(255))
    file = write_mask(photo, 255 - half())
    assert find_masks([photo]) == (file,)
    opaque = photos[0].parent / "d.png"
    Image.fromarray(np.full((30, 40, 4), 255, dtype=np.uint8)).save(opaque)
    assert open_alpha(opaque) is None, "an alpha channel that hides nothing is no mask"


def test_alpha_is_turned_upright_with_its_photo(tmp_path):
    """EXIF orientation 6: a viewer turns it by 90 degrees, so 40 x 30 becomes 30 x 40."""
    pixels = np.dstack([np.full((30, 40, 3), 90, dtype=np.uint8), half()])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    mask = load_mask(tmp_path / "a.png", tmp_path / "a.png")
    assert mask.shape == (40, 30) and mask[0].all() and not mask[-1].any()


def test_a_named_folder_holds_the_masks_of_one_subject_or_a_folder_for_each(photos, tmp_path):
    for folder in (tmp_path / "one", tmp_path / "many" / "rex"):
        folder.mkdir(parents=True)
        for photo in photos:
            Image.fromarray(half()).save(folder / f"{photo.stem}.png")
    assert find_masks(photos, folder=tmp_path / "one")[0] == tmp_path / "one" / "a.png"
    assert find_masks(photos, folder=tmp_path / "many")[0] == tmp_path / "many" / "rex" / "a.png"
    with pytest.raises(UserError, match=r"no such folder; make them with `delora-sd masks"):
        find_masks(photos, folder=tmp_path / "none")


def test_missing_masks_are_counted_and_the_message_says_how_to_make_them(photos):
    write_mask(photos[0], half())
    with pytest.raises(UserError, match=r"no mask for 1 of 2 photos \(b\.jpg\).*`delora-sd masks .*rex class_word="):
        find_masks(photos)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((40, 40), 255), r"40 x 40 px, but a\.jpg is 40 x 30 px"),
        (np.zeros((30, 40)), "an empty mask"),
        (half(100), "an empty mask"),
        (np.dstack([half(), half(), 0 * half()]), "a coloured image"),
        (np.dstack([half(), half(), half(), half()]), "transparency can mean two things"),
    ],
)
def test_a_mask_that_is_none_is_refused(photos, values, message):
    file = write_mask(photos[0], values)
    with pytest.raises(UserError, match=message):
        load_mask(photos[0], file)


def test_a_mask_of_no_photo_names_the_nearest_and_an_ambiguous_one_is_refused(photos):
    stray = write_mask(photos[0], half(), name="aa")
    with pytest.raises(UserError, match=r"aa\.png: no photo of that name .* did you mean 'a'"):
        find_masks(photos)
    stray.rename(stray.with_name("a.jpg"))
    with pytest.raises(UserError, match=r"masks are \.png"):
        find_masks(photos)
    (stray.with_name("a.jpg")).unlink()
    write_mask(photos[0], half())
    Image.new("RGB", (40, 30)).save(photos[0].with_suffix(".webp"))
    with pytest.raises(UserError, match=r"2 photos in .* are named a"):
        find_masks(photos)


@pytest.mark.parametrize("side", [4, 7, 30, 45])
def test_a_square_mask_is_the_mean_over_each_cell_of_the_square_that_training_sees(photos, side):
    """Also where cells do not end at pixels: against a mask enlarged until they do."""
    values = np.random.default_rng(0).integers(0, 256, (30, 40))
    file = write_mask(photos[0], values)
    square = values[:, 5:35] / 255  # 40 x 30 px: 5 columns are cut off on each side
    enlarged = np.kron(square, np.ones((side, side)))
    expected = enlarged.reshape(side, 30, side, 30).mean(axis=(1, 3))
    np.testing.assert_allclose(load_square_mask(photos[0], file, side), expected, atol=1e-6)


@pytest.mark.parametrize("side", [4, 7, 45])
def test_a_white_mask_is_ones_to_the_bit(photos, side):
    assert (load_square_mask(photos[0], write_mask(photos[0], np.full((30, 40), 255)), side) == 1).all()


def test_a_subject_that_the_crop_cuts_away_is_refused(photos):
    outside = np.zeros((30, 40))
    outside[:, :5] = 255
    with pytest.raises(UserError, match=r"outside the centred square of a\.jpg"):
        load_square_mask(photos[0], write_mask(photos[0], outside), 8)
