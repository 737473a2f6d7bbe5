"""Class images are made once, shared, and resumed."""

import socket
import threading
from pathlib import Path

import pytest

from delora_sd.diffusion.bases import find_base
from delora_sd.diffusion.families.family import Base
from delora_sd.errors import UserError
from delora_sd.generation import class_images as module
from delora_sd.generation.class_images import ensure_class_images
from delora_sd.settings import DataConfig, ModelConfig


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("DELORA_SD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "NUM_INFERENCE_STEPS", 2)
    return tmp_path / "cache"


@pytest.fixture
def base(tiny_sd: Path) -> Base:
    return find_base(ModelConfig(base=str(tiny_sd)))


def _ensure(base: Base, num_images: int, class_word: str = "dog", **data) -> Path:
    model = ModelConfig(base=base.name)
    return ensure_class_images(base, model, DataConfig(**data), class_word=class_word, num_images=num_images)


def test_as_many_as_asked_for_are_made_in_the_cache(base: Base, cache: Path):
    folder = _ensure(base, 5)
    assert [file.name for file in sorted(folder.glob("*.png"))] == [f"{i:04d}.png" for i in range(5)]
    assert cache in folder.parents and folder.name.startswith("dog-")


def test_shared_when_there_and_extended_when_more_are_wanted(base: Base, monkeypatch: pytest.MonkeyPatch):
    folder = _ensure(base, 2)
    before = {file: file.read_bytes() for file in folder.glob("*.png")}
    assert _ensure(base, 4) == folder and len(list(folder.glob("*.png"))) == 4
    assert all(file.read_bytes() == content for file, content in before.items())
    monkeypatch.setattr(module, "load_model", None)  # would raise if a model were loaded
    assert _ensure(base, 3, identifier="another") == folder


def test_lost_images_come_back_with_the_same_bytes(base: Base):
    victim = _ensure(base, 3) / "0001.png"
    content = victim.read_bytes()
    victim.unlink()
    _ensure(base, 3)
    assert victim.read_bytes() == content


def test_what_a_crash_left_half_written_is_cleared(base: Base):
    folder = _ensure(base, 1)
    dead = next(pid for pid in range(4_000_000, 1, -1) if not Path(f"/proc/{pid}").exists())
    leftover = folder / f".partial-{socket.gethostname()}~{dead}~0001.png"
    leftover.write_bytes(b"half an image")
    assert len(list(_ensure(base, 1).glob("*.png"))) == 1


def test_other_class_prompt_or_base_is_another_folder(base: Base, tmp_path: Path):
    from make_tiny_sd import write_tiny_sd

    other = find_base(ModelConfig(base=str(write_tiny_sd(tmp_path / "other", seed=1))))
    folders = {_ensure(base, 1), _ensure(base, 1, class_word="cat"), _ensure(other, 1)}
    folders.add(_ensure(base, 1, class_template="an image of a {class_word}"))
    assert len(folders) == 4


def test_two_at_once_draw_every_image_once(base: Base, monkeypatch: pytest.MonkeyPatch):
    draws, draw = [], module._draw

    def counting(*arguments):
        draws.append(1)
        draw(*arguments)

    monkeypatch.setattr(module, "_draw", counting)
    workers = [threading.Thread(target=_ensure, args=(base, 4)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(draws) == 1 and len(list(_ensure(base, 4).glob("*.png"))) == 4


def test_class_template_must_not_name_the_subject(base: Base):
    with pytest.raises(UserError, match=r"data\.class_template"):
        _ensure(base, 1, class_template="a photo of {identifier} {class_word}")


def test_cache_that_cannot_be_written(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DELORA_SD_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="set DELORA_SD_CACHE to another"):
        _ensure(base, 1)
