"""Photos that cannot be used, and photos that look odd but can."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from bad_inputs.case import Case, World


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def image(mode: str = "RGB", size: tuple[int, int] = (48, 40)) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
    return Image.fromarray(noise).convert(mode)


def claiming(width: int, height: int) -> bytes:
    """Returns a PNG of some bytes whose header claims any size."""
    header = struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(b"\0" * 100))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    return encoded(image(), "JPEG", exif=exif)


def sixteen_bit() -> bytes:
    return encoded(Image.fromarray(np.arange(48 * 40, dtype=np.uint16).reshape(40, 48) * 30), "PNG")


def animated() -> bytes:
    frames = [Image.new("RGB", (48, 40), (index * 80, 0, 0)) for index in range(3)]
    return encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:])


def photo(content: Callable[[], bytes], name: str = "1.jpg") -> Callable[[World], list[str]]:
    """A training on a folder that holds just this photo."""

    def command(world: World) -> list[str]:
        return world.train(f"data.photos={world.path(f'photos/{name}', content()).parent}")

    return command


def _link_loop(world: World) -> list[str]:
    folder = world.path("photos/ok.png", encoded(image(), "PNG")).parent
    (folder / "a.jpg").symlink_to(folder / "b.jpg")
    (folder / "b.jpg").symlink_to(folder / "a.jpg")
    return world.train(f"data.photos={folder}")


def _folder_loop(world: World) -> list[str]:
    (world.folder / "a").symlink_to(world.folder / "b")
    (world.folder / "b").symlink_to(world.folder / "a")
    return world.train(f"data.photos={world.folder / 'a'}")


def _folder_named_like_a_photo(world: World) -> list[str]:
    (world.folder / "photos" / "dog.jpg").mkdir(parents=True)
    return world.train(f"data.photos={world.folder / 'photos'}")


def _no_photos(world: World) -> list[str]:
    for name in ("a.mp4", "b.mp4", "notes.txt"):
        world.path(f"photos/{name}", b"x")
    return world.train(f"data.photos={world.folder / 'photos'}")


def _many_huge(world: World) -> list[str]:
    return world.train(f"data.photos={world.path('photos/1.png', claiming(60_000, 60_000)).parent}")


REFUSED = (
    Case(
        name="a photo that was cut off",
        command=photo(lambda: encoded(image(), "JPEG")[:900]),
        says=("photos/1.jpg", "damaged or cut off", "copy it again"),
    ),
    Case(name="a photo of 0 bytes", command=photo(lambda: b""), says=("photos/1.jpg", "empty", "expected a JPEG")),
    Case(
        name="a photo of one pixel",
        command=photo(lambda: encoded(image(size=(1, 1)), "PNG"), "1.png"),
        says=("photos/1.png", "1 x 1 px", "at least 16 px"),
    ),
    Case(
        name="a photo that claims 60,000 x 60,000 pixels",
        command=_many_huge,
        says=("photos/1.png", "million pixels", "scale it down"),
    ),
    Case(
        name="a photo 12,000 pixels wide and 8 high",
        command=photo(lambda: encoded(Image.new("RGB", (12_000, 8)), "PNG"), "1.png"),
        says=("photos/1.png", "12000 x 8 px", "at least 16 px a side"),
    ),
    Case(
        name="an animation", command=photo(animated, "1.webp"), says=("photos/1.webp", "animation of 3 frames", ".png")
    ),
    Case(
        name="a HEIC photo renamed to .jpg",
        command=photo(lambda: b"\0\0\0\x18ftypheic" + b"\0" * 64),
        says=("photos/1.jpg", "HEIC", "expected a JPEG, PNG, WebP, BMP"),
    ),
    Case(
        name="a text file named .jpg",
        command=photo(lambda: b"dear photo album"),
        says=("photos/1.jpg", "text file", "expected a JPEG, PNG, WebP, BMP"),
    ),
    Case(name="links that lead in a circle", command=_link_loop, says=("photos/a.jpg", "leads nowhere", "move it")),
    Case(name="a photo folder that is a circle of links", command=_folder_loop, says=("/a", "symbolic links")),
    Case(
        name="a folder named like a photo",
        command=_folder_named_like_a_photo,
        says=("photos/dog.jpg", "not a file", "move it"),
    ),
    Case(name="a folder without photos", command=_no_photos, says=("no photos in", "expected .jpg", "2 .mp4")),
    Case(
        name="a photo in place of the folder",
        command=lambda world: world.train(f"data.photos={world.path('dog.jpg', rotated())}"),
        says=("dog.jpg", "expected a folder of photos"),
    ),
    Case(
        name="a photo folder that does not exist",
        command=lambda world: world.train("data.photos=/nowhere/photos"),
        says=("/nowhere/photos", "No such file"),
    ),
    Case(
        name="no class word",
        command=lambda world: world.train("data.class_word=none"),
        says=("data.class_word", "missing", "dog, backpack, toy"),
    ),
)

ODD = {
    "turned by EXIF.jpg": rotated,
    "with transparency.png": lambda: encoded(image("RGBA"), "PNG"),
    "CMYK.jpg": lambda: encoded(image("CMYK"), "JPEG"),
    "16 bits.png": sixteen_bit,
    "palette.png": lambda: encoded(image("P"), "PNG"),
    "Šárka 犬 🐶 #1.JPG": rotated,
    "not UTF-8 \udcff.jpg": rotated,
}
"""{name: content} of photos that look odd but can be used."""


def damaged_image(run: Path) -> Path:
    """Cuts off the first image of a run; returns it."""
    file = min(run.glob("images/*/*.png"))
    file.write_bytes(file.read_bytes()[:200])
    return file
