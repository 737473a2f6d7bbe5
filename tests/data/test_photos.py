"""Photos as a viewer shows them; damaged and disguised ones are refused."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from delora_sd.data.photo_files import find_photos
from delora_sd.data.photos import (
    MAX_PHOTO_PIXELS,
    load_square,
    open_photo,
    stack_squares,
    to_square,
    to_tensor,
    upright_size,
)
from delora_sd.errors import UserError

RED, BLUE = (200, 30, 40), (20, 40, 210)


def _two_halves(width: int = 60, height: int = 40) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def _close(pixel: tuple, expected: tuple, tolerance: int = 4) -> bool:
    return max(abs(a - b) for a, b in zip(pixel, expected, strict=True)) <= tolerance


def test_exif_rotation_is_applied(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: rotate by 90 degrees clockwise to view
    _two_halves().save(tmp_path / "a.jpg", exif=exif, quality=95)
    image = open_photo(tmp_path / "a.jpg")
    assert image.size == (40, 60)
    assert _close(image.getpixel((20, 5)), RED) and _close(image.getpixel((20, 55)), BLUE)


def test_alpha_is_composited_on_white(tmp_path: Path):
    image = Image.new("RGBA", (20, 20), (*RED, 255))
    image.paste((0, 0, 0, 0), (0, 0, 10, 20))
    image.paste((0, 0, 0, 128), (0, 0, 10, 10))
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "a.webp", lossless=True)
    for photo in (open_photo(tmp_path / "a.png"), open_photo(tmp_path / "a.webp")):
        assert photo.getpixel((5, 15)) == (255, 255, 255)
        assert _close(photo.getpixel((5, 5)), (127, 127, 127), 1)
        assert photo.getpixel((15, 5)) == RED


def test_palette_with_transparency(tmp_path: Path):
    image = Image.new("P", (20, 20), 0)
    image.putpalette([0, 0, 0, *RED])
    image.paste(1, (10, 0, 20, 20))
    image.save(tmp_path / "a.png", transparency=0)
    photo = open_photo(tmp_path / "a.png")
    assert photo.getpixel((5, 5)) == (255, 255, 255) and photo.getpixel((15, 5)) == RED


def test_sixteen_bit_gray_keeps_its_range(tmp_path: Path):
    values = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    Image.fromarray(values).save(tmp_path / "a.png")
    photo = np.asarray(open_photo(tmp_path / "a.png"))
    assert np.abs(photo[..., 0] - values / 257.0).max() <= 0.5
    assert (photo[..., 0] == photo[..., 2]).all()


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P"])
def test_gray_and_palette_become_rgb(mode: str, tmp_path: Path):
    _two_halves().convert(mode).save(tmp_path / "a.png")
    assert open_photo(tmp_path / "a.png").mode == "RGB"


def test_cmyk_becomes_rgb(tmp_path: Path):
    Image.new("CMYK", (20, 20), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    assert _close(open_photo(tmp_path / "a.jpg").getpixel((5, 5)), (255, 0, 0), 6)


def test_embedded_colour_profile_is_applied(tmp_path: Path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"tmp1").replace(b"gXYZ", b"rXYZ").replace(b"tmp1", b"gXYZ")
    for name, profile in (("srgb", srgb), ("swapped", swapped), ("broken", b"not a profile")):
        _two_halves().save(tmp_path / f"{name}.png", icc_profile=profile)
    assert _close(open_photo(tmp_path / "srgb.png").getpixel((5, 5)), RED, 1)
    red, green, _ = open_photo(tmp_path / "swapped.png").getpixel((5, 5))
    assert green > 100 > red, "the profile says that the first channel is green light"
    assert open_photo(tmp_path / "broken.png").getpixel((5, 5)) == RED


def test_square_is_the_centre_of_the_resized_image():
    image = Image.new("RGB", (96, 32), (0, 0, 0))
    image.paste(RED, (32, 0, 64, 32))
    square = to_square(image, 16)
    assert (np.asarray(square)[:, 3:-3] == RED).all()
    resized = image.resize((48, 16), Image.Resampling.LANCZOS).crop((16, 0, 32, 16))
    assert np.array_equal(np.asarray(square), np.asarray(resized))


def test_tensor_spans_minus_one_to_one():
    image = Image.fromarray(np.array([[[0, 128, 255]]], dtype=np.uint8).repeat(2, axis=1))
    tensor = to_tensor(image)
    assert tensor.shape == (3, 1, 2) and tensor.dtype == torch.float32
    torch.testing.assert_close(tensor[:, 0, 0], torch.tensor([-1.0, 128 / 127.5 - 1, 1.0]))


def test_squares_are_stacked_in_order_and_say_what_they_show(photo_folder: Path):
    squares = [load_square(path, 32) for path in sorted(photo_folder.iterdir())]
    pixels, shows = stack_squares(squares)
    assert pixels.shape == (4, 3, 32, 32)
    torch.testing.assert_close(pixels[2], to_tensor(squares[2].image))
    assert shows.tolist() == [[40, 48, 0, 3, 32, 32]] * 4  # (48 - 40) // 2 px cut on the left, scaled by 32 / 40


@pytest.mark.parametrize("orientation", range(1, 10))
def test_the_header_gives_the_size_of_the_upright_photo(orientation: int, tmp_path: Path):
    exif = Image.Exif()
    exif[274] = orientation
    Image.new("RGB", (48, 40)).save(tmp_path / "a.jpg", exif=exif)
    assert upright_size(tmp_path / "a.jpg") == open_photo(tmp_path / "a.jpg").size[::-1]


def test_small_photo_warns(photo_folder: Path):
    path = min(photo_folder.iterdir())
    load_square(path, 80)
    with pytest.warns(UserWarning, match="48 x 40 px is under half the training size of 96 px"):
        load_square(path, 96)


def test_large_photo_is_fine(tmp_path: Path):
    Image.new("L", (12_000, 9_000)).save(
        tmp_path / "a.png", compress_level=1
    )  # above Pillow's warning, below our limit
    assert open_photo(tmp_path / "a.png").size == (12_000, 9_000)


KINDS = {".jfif": "JPEG", ".jpe": "JPEG", ".bmp": "BMP", ".tif": "TIFF", ".TIFF": "TIFF", ".avif": "AVIF"}


@pytest.mark.parametrize("suffix", KINDS)
def test_other_kinds_of_photos_are_read(suffix: str, tmp_path: Path):
    _two_halves().save(tmp_path / f"a{suffix}", KINDS[suffix], **({"quality": 95} if suffix != ".bmp" else {}))
    (path,) = find_photos(tmp_path)
    assert _close(open_photo(path).getpixel((10, 20)), RED, 12) and _close(
        open_photo(path).getpixel((50, 20)), BLUE, 12
    )


def test_photos_of_phones_are_read_where_their_decoder_is_installed(tmp_path: Path):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(_two_halves()).save(tmp_path / "IMG_1.HEIC", quality=95)
    (path,) = find_photos(tmp_path)
    assert _close(open_photo(path).getpixel((10, 20)), RED, 12) and _close(
        open_photo(path).getpixel((50, 20)), BLUE, 12
    )


@pytest.mark.parametrize("mode", ["CMYK", "LAB", "L", "1", "I;16", "RGBA", "P"])
def test_a_tiff_of_any_usual_mode_is_read(mode: str, tmp_path: Path):
    pixels = {"I;16": Image.fromarray(np.full((20, 20), 30000, np.uint16))}
    image = pixels.get(mode) or (
        Image.new("LAB", (20, 20), (128, 128, 128)) if mode == "LAB" else _two_halves().convert(mode)
    )
    image.save(tmp_path / "a.tif")
    assert open_photo(tmp_path / "a.tif").mode == "RGB"


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_a_tiff_whose_white_nobody_knows_is_refused(kind: type, tmp_path: Path):
    Image.fromarray(np.ones((20, 20), kind)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"a\.tif: a TIFF of 32-bit or signed numbers"):
        open_photo(tmp_path / "a.tif")


def test_a_document_of_several_pages_is_refused(tmp_path: Path):
    _two_halves().save(tmp_path / "a.tif", save_all=True, append_images=[_two_halves()])
    with pytest.raises(UserError, match=r"a document of 2 pages; save the one page you want as \.png"):
        open_photo(tmp_path / "a.tif")


def _wide_gamut() -> bytes:
    """sRGB with red and green exchanged: no viewer could overlook it."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return srgb.replace(b"rXYZ", b"tmp1").replace(b"gXYZ", b"rXYZ").replace(b"tmp1", b"gXYZ")


def _as_mode(image: Image.Image, mode: str) -> Image.Image:
    return image.quantize(2) if mode == "P" else image.convert(mode)  # `convert` would take the web's 216 colours


@pytest.mark.parametrize("form", ["RGBA.png", "P.png", "P.tif", "RGBA.webp", "RGBA.tif", "transparent.png"])
def test_one_colour_under_one_profile_is_one_colour_in_every_form(form: str, tmp_path: Path):
    plain = Image.new("RGB", (20, 20), RED)
    plain.save(tmp_path / "plain.png", icc_profile=_wide_gamut())
    expected = open_photo(tmp_path / "plain.png").getpixel((5, 5))
    image = plain.convert("RGBA") if form == "transparent.png" else _as_mode(plain, form.partition(".")[0])
    if form == "transparent.png":
        image.paste((*RED, 0), (10, 0, 20, 20))
    image.save(tmp_path / form, icc_profile=_wide_gamut(), **({"lossless": True} if form.endswith("webp") else {}))
    photo = open_photo(tmp_path / form)
    assert expected != RED and photo.getpixel((5, 5)) == expected
    assert photo.getpixel((15, 5)) == ((255, 255, 255) if form == "transparent.png" else expected)


@pytest.mark.parametrize("mode", ["L", "1"])
def test_gray_under_a_colour_profile_stays_gray_and_under_a_foreign_one_as_it_is(mode: str, tmp_path: Path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.new("L", (20, 20), 255 if mode == "1" else 90).convert(mode)
    image.save(tmp_path / "a.tif", icc_profile=srgb)
    assert _close(open_photo(tmp_path / "a.tif").getpixel((5, 5)), (image.getpixel((5, 5)),) * 3, 1)
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    _two_halves().save(tmp_path / "b.png", icc_profile=lab)
    assert open_photo(tmp_path / "b.png").getpixel((5, 5)) == RED


def _jpeg() -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()


def _animation(kind: str) -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (20, 20), (i * 80, 0, 0)) for i in range(3)]
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def _png_claiming(width: int, height: int) -> bytes:
    """A valid header of an image that would need width x height x 3 bytes."""
    import struct
    import zlib

    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    data = b"IDAT" + zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))


BAD_PHOTOS = {
    "empty": (b"", "the file is empty"),
    "truncated": (_jpeg()[:1500], "damaged or cut off"),
    "header_only": (_jpeg()[:10], "not a readable photo"),
    "text": (b"these are my notes about the dog\n", "it is a text file"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "it is a HEIC photo"),
    "video": (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2avc1mp41", "it is a video"),
    "gif": (_animation("GIF"), "it is a GIF image"),
    "animated_webp": (_animation("WEBP"), "an animation of 3 frames"),
    "animated_png": (_animation("PNG"), "an animation of 3 frames"),
    "one_pixel": (b"", "expected at least 16 px"),
    "bomb": (_png_claiming(20_000, 20_000), "million pixels"),
    "bomb_below_pillows_limit": (_png_claiming(MAX_PHOTO_PIXELS // 1000 + 1, 1000), "178001 x 1000 px is above"),
    "binary": (bytes(range(256)), "damaged or of another kind"),
}


@pytest.mark.parametrize("name", BAD_PHOTOS)
def test_bad_photo_is_one_clear_line(name: str, tmp_path: Path):
    content, message = BAD_PHOTOS[name]
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    if name == "one_pixel":
        Image.new("RGB", (1, 1)).save(path)
    with pytest.raises(UserError, match=message) as caught:
        open_photo(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
