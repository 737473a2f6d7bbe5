"""No pickle is ever opened, and names in a stranger's file stay in their folder.

Every place where weights or data can be named is offered a pickle that would make a folder when opened.
"""

import io
import json
import pickle
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from bad_inputs.case import World
from bad_inputs.models import UNET, Trap, edit_json
from safetensors.torch import load_file, save_file

from delora_sd.adapters.exchange.export.export import export_adapter
from delora_sd.adapters.exchange.stored.formats import OWN_FILE
from delora_sd.cli.main import main
from delora_sd.settings import ExportConfig

_opened: list[str] = []
"""Every pickle that anything began to rebuild since the list was cleared, in this process."""

sys.addaudithook(lambda event, arguments: event == "pickle.find_class" and _opened.append(str(arguments)))


def plain(trap: object) -> bytes:
    return pickle.dumps(trap)


def zipped(trap: object) -> bytes:
    """As torch.save writes it today."""
    buffer = io.BytesIO()
    torch.save({"weight": trap}, buffer)
    return buffer.getvalue()


def legacy(trap: object) -> bytes:
    """As torch.save wrote it before 1.6."""
    buffer = io.BytesIO()
    torch.save({"weight": trap}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def array(trap: object) -> bytes:
    """A .npy of objects."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([trap], dtype=object), allow_pickle=True)
    return buffer.getvalue()


KINDS = {"plain": plain, "zipped": zipped, "legacy": legacy, "array": array}

Offer = Callable[[World, bytes], list[str]]
"""Puts the pickle somewhere; returns the command that meets it."""


def in_base(name: str, *, without: str | None = None) -> Offer:
    def offer(world: World, content: bytes) -> list[str]:
        folder = world.copy_of_base()
        if without:
            (folder / without).unlink()
        (folder / name).write_bytes(content)
        return world.train(f"model.base={folder}")

    return offer


def in_run(name: str, *words: str, without: str | None = None) -> Offer:
    def offer(world: World, content: bytes) -> list[str]:
        run = world.copy_of_run()
        for file in [] if without is None else run.glob(without):
            file.unlink()
        for file in [run / name] if "*" not in name else list(run.glob(name)):
            file.write_bytes(content + b"\n" if name.endswith(".jsonl") else content)  # or it would be a torn line
        return [word.format(run=run, out=world.out) for word in words]

    return offer


def as_file(name: str, *words: str) -> Offer:
    """The pickle as a file of its own; {file} in the words is its path, {photos} and {run} what else there is."""

    def offer(world: World, content: bytes) -> list[str]:
        file, run = world.path(name, content), world.finished_run
        return [
            word.format(file=file, folder=file.parent, run=run, out=world.out, photos=world.photos) for word in words
        ]

    return offer


def _index_to_a_pickle(world: World, content: bytes) -> list[str]:
    folder = world.copy_of_base()
    names = dict.fromkeys(load_file(folder / f"{UNET}.safetensors"), "diffusion_pytorch_model.bin")
    (folder / f"{UNET}.safetensors").unlink()
    (folder / f"{UNET}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    (folder / f"{UNET}.bin").write_bytes(content)
    return world.train(f"model.base={folder}")


def _adapter_beside_the_text_encoder(world: World, content: bytes) -> list[str]:
    folder = world.copy_of_base()
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": str(folder / "text_encoder"),
        "target_modules": ["q_proj"],
    }
    (folder / "text_encoder/adapter_config.json").write_text(json.dumps(config))
    (folder / "text_encoder/adapter_model.bin").write_bytes(content)
    return world.train(f"model.base={folder}")


def _tokenizer_that_brings_code(world: World, content: bytes) -> list[str]:
    folder = world.copy_of_base()
    (folder / "tokenizer/tokenizer.py").write_bytes(content)
    edit_json(folder / "tokenizer/tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenizer.Evil", None]})
    (folder / "tokenizer/vocab.json").write_bytes(content)
    return world.train(f"model.base={folder}")


def _state_to_resume_from(world: World, content: bytes) -> list[str]:
    run = world.copy_of_run()
    (run / "checkpoints/step-000002/optimizer.safetensors").write_bytes(content)
    more = ["training.num_steps=3", "training.checkpoint_every=1", "training.log_every=1"]
    return world.train(f"output_dir={run}", "adapter.method=lora", "adapter.rank=2", *more)


TRAIN = ("train", "data.photos={photos}", "data.class_word=dog", "model.base=miniature", "output_dir={out}")
JUDGE = ("score", "{run}", "protocol=dreambooth", "output={out}")
DRAW = ("images_per_prompt=1", "num_inference_steps=1", "output_dir={out}")
DINO, LPIPS = "encoders.weights={{dino/vit-s-16: {file}}}", "lpips_weights={file}"
OFFERS: dict[str, Offer] = {
    "a UNet of .bin only": in_base(f"{UNET}.bin", without=f"{UNET}.safetensors"),
    "a VAE of .bin only": in_base("vae/diffusion_pytorch_model.bin", without="vae/diffusion_pytorch_model.safetensors"),
    "a text encoder of .bin only": in_base("text_encoder/pytorch_model.bin", without="text_encoder/model.safetensors"),
    "a UNet renamed": in_base(f"{UNET}.safetensors"),
    "a VAE renamed": in_base("vae/diffusion_pytorch_model.safetensors"),
    "a text encoder renamed": in_base("text_encoder/model.safetensors"),
    "a tokenizer's vocabulary": in_base("tokenizer/vocab.json"),
    "a tokenizer's settings": in_base("tokenizer/tokenizer_config.json"),
    "a tokenizer that brings code": _tokenizer_that_brings_code,
    "a scheduler": in_base("scheduler/scheduler_config.json"),
    "a model index": in_base("model_index.json"),
    "an index to a pickle": _index_to_a_pickle,
    "an adapter beside the text encoder": _adapter_beside_the_text_encoder,
    "a single-file checkpoint": as_file("sd.ckpt", *TRAIN, "model.base={file}"),
    **{
        f"an adapter{ending}": as_file(
            f"lora{ending}", "generate", "run={file}", "data.class_word=dog", "model.base=miniature", *DRAW
        )
        for ending in (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".npy", ".safetensors")
    },
    "an extra adapter": as_file("x.pt", "generate", "{run}", "extra_adapters={{{file}: 1.0}}", *DRAW),
    "a PEFT folder of .bin only": in_run(
        "adapter/adapter_model.bin", "generate", "{run}", *DRAW, without="adapter/adapter_model.safetensors"
    ),
    "a PEFT folder with .bin beside": in_run(
        "adapter/adapter_model.bin", "export", "{run}", "output={out}.safetensors"
    ),
    "a PEFT folder renamed": in_run("adapter/adapter_model.safetensors", "export", "{run}", "output={out}.safetensors"),
    "a PEFT folder merged": in_run("adapter/adapter_model.safetensors", "merge", "{run}", "{out}"),
    "an adapter's settings": in_run("adapter/adapter_config.json", "generate", "{run}", *DRAW),
    "a checkpoint's optimizer": _state_to_resume_from,
    "a run's settings": in_run("config.yaml", "generate", "{run}", *DRAW),
    "a run's manifest": in_run("manifest.json", "generate", "{run}", *DRAW),
    "a listing of images": in_run("images/*/images.jsonl", "score", "{run}", "protocol=miniature"),
    "scores": in_run("scores.jsonl", "report", "{run}"),
    "events": in_run("events.jsonl", "report", "{run}"),
    "a generated image": in_run("images/*/*.png", "score", "{run}", "protocol=miniature"),
    "a PEFT configuration": as_file("p.json", *TRAIN, "adapter.method=peft", "adapter.peft_config={file}"),
    "a settings file": as_file("my.yaml", "train", "{file}", "output_dir={out}"),
    "prompts": as_file("p.txt", "generate", "{run}", "prompts={file}", *DRAW),
    "prompts of images": as_file(
        "p.json", "score", "reference={photos}", "generated={photos}", "prompts={file}", "output={out}"
    ),
    "a photo": as_file("p/1.jpg", *TRAIN, "data.photos={folder}"),
    "a list of subjects": as_file(
        "d/classes.csv", "train", "data.dataset={folder}", "data.subject=dog", "output_dir={out}"
    ),
    "a judge's .pt": as_file("dino.pt", *JUDGE, DINO),
    "a judge renamed": as_file("dino.safetensors", *JUDGE, DINO),
    "a folder of judges": as_file("w/dino-vit-s-16.bin", *JUDGE, "encoders.weights_dir={folder}"),
    "LPIPS .pth": as_file("alex.pth", "score", "{run}", "protocol=miniature", LPIPS, "output={out}"),
    "LPIPS renamed": as_file("alex.safetensors", "score", "{run}", "protocol=miniature", LPIPS, "output={out}"),
    "a benchmark's plan": as_file("b/plan.json", "status", "{folder}"),
}


@pytest.fixture
def no_unpickling(monkeypatch) -> Iterator[None]:
    """Any call of the loaders that open pickles fails the test, whoever makes it."""

    def refuse(*arguments, **_):
        _opened.append(f"a loader of pickles: {arguments[:1]}")
        raise AssertionError("a pickle was to be loaded")

    for loader in ("torch.load", "pickle.load", "pickle.loads"):
        monkeypatch.setattr(loader, refuse)
    _opened.clear()
    yield
    assert _opened == []


@pytest.mark.parametrize("place", OFFERS)
def test_a_pickle_is_refused_in_one_line_and_never_opened(place: str, world: World, no_unpickling, capsys):
    kinds = list(KINDS)
    kind = kinds[list(OFFERS).index(place) % len(kinds)]
    arguments = OFFERS[place](world, KINDS[kind](Trap(world.folder / "owned")))
    code = main(arguments)
    errors = capsys.readouterr().err
    assert not (world.folder / "owned").exists(), "the pickle ran"
    assert code == 2, f"{kind}: {errors}"
    assert errors.count("\n") == 1 and len(errors) < 1000 and "unexpected" not in errors, errors


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_pickle_named_safetensors_is_refused(kind: str, world: World, no_unpickling, capsys):
    file = world.path("lora.safetensors", KINDS[kind](Trap(world.folder / "owned")))
    code = main(world.generate(f"run={file}", "model.base=miniature", "data.class_word=dog"))
    assert code == 2 and str(file) in capsys.readouterr().err
    assert not (world.folder / "owned").exists()


def test_the_trap_is_one(tmp_path):
    """The other tests prove something only if an opened pickle is noticed."""
    _opened.clear()
    pickle.loads(plain(Trap(tmp_path / "owned")))
    assert (tmp_path / "owned").exists() and "mkdir" in _opened[0]


def test_names_of_layers_never_become_paths(world: World):
    """An adapter of our own layout whose layer is called ../../escape, exported in every layout."""
    run = world.copy_of_run()
    folder = run / "adapter"
    tensors = {f"../../escape.{name}": torch.ones(2, 2) for name in ("A", "B")}
    spec = {"../../escape": {"shape": [2, 2], "rank": 2, "boundary": 8.0, "alpha": 4.0}}
    metadata = {"delora.config": json.dumps({"method": "lora", "rank": 2}), "delora.layers": json.dumps(spec)}
    save_file(tensors, folder / OWN_FILE, metadata=metadata)
    edit_json(folder / "adapter_config.json", peft_type="DELORA_SD")
    before = {path for path in world.folder.rglob("*") if world.out not in (path, *path.parents)}
    for layout, name in (("kohya", "a.safetensors"), ("diffusers", "b.safetensors"), ("peft", "c")):
        export_adapter(ExportConfig(run=str(run), layout=layout, output=str(world.out / name)))
    assert {path for path in world.folder.rglob("*") if world.out not in (path, *path.parents)} == before
    assert sorted(path.name for path in world.out.iterdir()) == ["a.safetensors", "b.safetensors", "c"]


@pytest.mark.parametrize("name", ["../dog", "..", "/tmp/dog", "a/b"])
def test_names_given_for_images_never_become_paths(name: str, world: World):
    """Prompts become file names; only plain letters are kept of them."""
    assert main(world.generate(f"prompts={name} {{class_word}}")) == 0
    files = [path for path in world.folder.rglob("*") if path.is_file()]
    assert files and all((world.out / "images") in path.parents for path in files)


def test_messages_hold_no_control_characters(world: World, capsys):
    assert main(["train", "adapter.\x1b[31mrnak=\x07\u202e4\x9b"]) == 2
    errors = capsys.readouterr().err
    assert errors.strip("\n").isprintable() and "\\x1b" in errors


def test_every_image_and_text_file_is_opened_with_a_limit():
    from PIL import Image

    from delora_sd.config.load import MAX_YAML_BYTES
    from delora_sd.data.photos import MAX_PHOTO_PIXELS
    from delora_sd.data.prompts import MAX_PROMPT_FILE_BYTES

    assert MAX_PHOTO_PIXELS <= 2 * Image.MAX_IMAGE_PIXELS
    assert max(MAX_YAML_BYTES, MAX_PROMPT_FILE_BYTES) <= 1_000_000
