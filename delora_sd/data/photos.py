"""Photos to tensors: what a viewer shows, cropped square, in [-1, 1]. Knows files and pixels, no model.

Training and scoring both read photos through `open_photo`, so they see the same pixels.
"""

import io
import threading
import warnings
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, features

from delora_sd.errors import UserError

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

MAX_PHOTO_PIXELS = 178_000_000
"""Width x height above which a photo is refused before it is decoded (13,340 px square, 0.5 GB of RGB):
a few bytes can claim any size. Just under Pillow's own hard limit."""
MIN_SIDE_PX = 16
"""A photo with a shorter side shows nothing."""

_PILLOW_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""Only these decoders run, whatever the file's name says, and AVIF's and HEIC's where they are installed. JPEG includes
MPO, the two-image JPEG of some phones."""

HEIC_ADVICE = "`pip install delora_sd[heic]` reads it, or save it as .jpg"

_OPENING = threading.Lock()
"""`warnings.catch_warnings` is not thread-safe and photos are opened in parallel."""


def open_photo(path: Path) -> Image.Image:
    """Returns the photo as a viewer shows it: RGB, 8 bit, upright (EXIF), on white, in sRGB.

    Raises:
        UserError: not a readable still photo of a kind we know, or too many or too few pixels.
    """
    with open_header(path) as image:
        _check_size(path, image)
        _check_pixels(path, image)
        try:
            upright = ImageOps.exif_transpose(image)
            return _to_rgb(upright)
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
            raise UserError(
                f"{path}: the photo is damaged or cut off ({error}); copy it again or leave it out"
            ) from None


def open_alpha(path: Path) -> Image.Image | None:
    """Returns the photo's transparency, 8 bit grey and upright; None when every pixel is opaque.

    Raises:
        UserError: as `open_photo`.
    """
    with open_header(path) as image:
        _check_size(path, image)
        if not image.has_transparency_data:
            return None
        try:
            alpha = ImageOps.exif_transpose(image).convert("RGBA").getchannel("A")
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
            raise UserError(f"{path}: the photo is damaged or cut off ({error}); copy it again") from None
    return alpha if alpha.getextrema()[0] < 255 else None


def can_read_heic() -> bool:
    """True when the decoder of the iPhone's photos is installed."""
    return find_spec("pillow_heif") is not None


def opens_as_heic(path: Path) -> bool:
    """True when the decoder takes the file's header; damaged ones and kinds it does not know are none."""
    try:
        with open_header(path):
            return True
    except UserError:
        return False


def check_photo(path: Path) -> None:
    """Raises UserError for what `open_photo` refuses, as far as the header tells: no pixel is decoded."""
    with open_header(path) as image:
        _check_size(path, image)
        _check_pixels(path, image)


def upright_size(path: Path) -> tuple[int, int]:
    """Returns (height, width) as people see the photo: a camera held on its side writes a mark, not other pixels."""
    with open_header(path) as image:
        lies_on_its_side = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        return image.size if lies_on_its_side else image.size[::-1]


class Square(NamedTuple):
    """What training sees of a photo."""

    image: Image.Image
    shows: tuple[int, ...]
    """The photo's height and width, top and left of the crop after the photo was scaled, height and width of the
    crop: what SDXL is told about an image."""


def load_square(path: Path, size_px: int) -> Square:
    """Returns the photo's centred square; warns when it is too small to be sharp.

    Raises:
        UserError: as `open_photo`.
    """
    photo = open_photo(path)
    warn_if_small(path, photo, size_px)
    side = min(photo.size)
    top, left = ((length - side) // 2 * size_px // side for length in (photo.height, photo.width))
    return Square(to_square(photo, size_px), (photo.height, photo.width, top, left, size_px, size_px))


def stack_squares(
    squares: Sequence[Square],
) -> "tuple[Float[Tensor, 'photos 3 height width'], Int[Tensor, 'photos 6']]":
    """Returns (the squares in [-1, 1], what of each photo they show), in the order given."""
    import torch

    pixels = torch.stack([to_tensor(square.image) for square in squares])
    return pixels, torch.tensor([square.shows for square in squares])


def to_square(image: Image.Image, size_px: int) -> Image.Image:
    """Returns the largest centred square of the image at `size_px` (Lanczos, antialiased).

    The same pixels as resizing the whole image and then cutting out the centre, without the large intermediate.
    """
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.resize((size_px, size_px), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))


def to_tensor(image: Image.Image) -> "Float[Tensor, '3 height width']":
    """Returns the RGB image as float32 in [-1, 1], the range the VAE was trained on."""
    import torch

    pixels = torch.from_numpy(np.array(image, dtype=np.float32))  # (height, width, 3)
    return pixels.permute(2, 0, 1).contiguous() / 127.5 - 1.0


def warn_if_small(path: Path, image: Image.Image, size_px: int) -> None:
    """Warns when the photo has to be enlarged more than twice for training."""
    side = min(image.size)
    if 2 * side < size_px:
        warnings.warn(
            f"{path}: {image.width} x {image.height} px is under half the training size of {size_px} px; "
            "the subject will be learned blurred. Use a larger photo or a smaller model.size_px",
            stacklevel=2,
        )


def open_header(path: Path) -> Image.Image:
    """Returns the image with only its header read: sizes are known, pixels are not decoded.

    Raises:
        UserError: no image of a kind we know, or one that claims too many pixels.
    """
    try:
        with _OPENING, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(path, formats=_decoders())
    except Image.DecompressionBombError:
        raise UserError(f"{path}: {_too_large('its size')}") from None
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception:  # Pillow's parsers raise nearly anything on damaged bytes
        raise UserError(
            f"{path}: not a readable photo ({_describe(path)}); expected a JPEG, PNG, WebP, BMP, TIFF or AVIF"
        ) from None


@cache
def _decoders() -> tuple[str, ...]:
    """Returns the names of the decoders that may run, among those that are installed."""
    if can_read_heic():
        from pillow_heif import register_heif_opener

        register_heif_opener()
    return (
        *_PILLOW_FORMATS,
        *(("AVIF",) if features.check("avif") else ()),
        *(("HEIF",) if can_read_heic() else ()),
    )


def _check_pixels(path: Path, image: Image.Image) -> None:
    """Refuses several images in one file, and numbers whose white nobody knows."""
    num_frames = getattr(image, "n_frames", 1) if image.format in ("PNG", "WEBP", "AVIF", "TIFF") else 1
    if num_frames > 1:
        kind = f"a document of {num_frames} pages" if image.format == "TIFF" else f"an animation of {num_frames} frames"
        raise UserError(f"{path}: {kind}; save the one {kind.split()[-1][:-1]} you want as .png")
    if image.format == "TIFF" and image.mode in ("I", "F"):
        raise UserError(f"{path}: a TIFF of 32-bit or signed numbers; save it with 8 or 16 bits per channel")


def _check_size(path: Path, image: Image.Image) -> None:
    if image.width * image.height > MAX_PHOTO_PIXELS:
        raise UserError(f"{path}: {_too_large(f'{image.width} x {image.height} px')}")
    if min(image.size) < MIN_SIDE_PX:
        raise UserError(f"{path}: {image.width} x {image.height} px; expected at least {MIN_SIDE_PX} px a side")


def _too_large(found: str) -> str:
    return f"{found} is above the limit of {MAX_PHOTO_PIXELS // 1_000_000} million pixels; scale it down"


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit gray: Pillow would clip it at 255
        image = Image.fromarray((np.asarray(image).astype(np.float64) / 257.0).round().clip(0, 255).astype(np.uint8))
    if not image.has_transparency_data:
        return _to_srgb(image)
    rgba = image.convert("RGBA")
    opaque = rgba.convert("L" if image.mode in ("LA", "La") else "RGB")
    opaque.info["icc_profile"] = image.info.get("icc_profile")
    colours = _to_srgb(opaque)
    colours.putalpha(rgba.getchannel("A"))
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), colours).convert("RGB")


def _to_srgb(image: Image.Image) -> Image.Image:
    """Applies the embedded colour profile, as viewers do: phones write Display P3, scanners CMYK."""
    profile = image.info.get("icc_profile")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            mode = _PROFILE_MODES.get(source.profile.xcolor_space.strip())
            if mode and (mode == image.mode or image.mode in _WITHOUT_OWN_COLOURS.get(mode, ())):
                pixels = image if mode == image.mode else image.convert(mode)
                return ImageCms.profileToProfile(pixels, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (OSError, ImageCms.PyCMSError):
            pass  # a broken profile is no reason to refuse the photo; viewers ignore it too
    return image.convert("RGB")


_PROFILE_MODES = {"RGB": "RGB", "CMYK": "CMYK", "GRAY": "L"}
_WITHOUT_OWN_COLOURS = {"RGB": ("P", "L", "1", "YCbCr"), "L": ("1",)}
"""{mode of a profile: modes that become it without a loss}; any other profile does not belong to its image."""


def _describe(path: Path) -> str:
    """Returns what the first bytes look like, so that a wrong name is explained."""
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return "the file is empty"
    brand = head[8:12]
    if head[4:8] == b"ftyp":
        return _describe_container(brand)
    if head.startswith(b"\x1aE\xdf\xa3") or (head.startswith(b"RIFF") and brand == b"AVI "):
        return "it is a video"
    if head.startswith(b"GIF8"):
        return "it is a GIF image"
    is_text = all(byte >= 32 or byte in b"\t\n\r\f" for byte in head)
    return "it is a text file" if is_text else "its contents are damaged or of another kind"


def _describe_container(brand: bytes) -> str:
    """HEIC, AVIF and videos are boxes of one kind, told apart by a brand."""
    if brand[:2] == b"av":
        return "it is an AVIF photo, damaged or for a newer Pillow"
    if brand[:2] in (b"he", b"mi", b"ms"):
        return "it is a HEIC photo, but a damaged one" if can_read_heic() else f"it is a HEIC photo; {HEIC_ADVICE}"
    return "it is a video"
