"""Base models, adapters and datasets that are broken, incomplete, hostile, or of something else."""

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from bad_inputs.case import Case, World
from bad_inputs.photos import encoded, image

UNET = "unet/diffusion_pytorch_model"
ADAPTER = "adapter/adapter_model.safetensors"


class Trap:
    """What a pickle can do when it is opened: here it makes a folder."""

    def __init__(self, target: Path):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


def lying(text: bytes, length: int | None = None) -> bytes:
    """Returns a safetensors file with any header."""
    return struct.pack("<Q", len(text) if length is None else length) + text


def base(change: Callable[[Path], object]) -> Callable[[World], list[str]]:
    """A training on a copy of the tiny base that `change` spoiled."""

    def command(world: World) -> list[str]:
        folder = world.copy_of_base()
        change(folder)
        return world.train(f"model.base={folder}")

    return command


def adapter(change: Callable[[Path], object]) -> Callable[[World], list[str]]:
    """A generation from a copy of the finished run that `change` spoiled."""

    def command(world: World) -> list[str]:
        run = world.copy_of_run()
        change(run)
        return world.generate(f"run={run}")

    return command


def edit_json(file: Path, **values) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def edit_tensors(file: Path, change: Callable[[dict], object]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def _pickles_only(folder: Path) -> None:
    (folder / f"{UNET}.safetensors").unlink()
    (folder / f"{UNET}.bin").write_bytes(pickle.dumps(Trap(folder.parent / "owned")))


def _first_to_nan(tensors: dict) -> None:
    tensors[min(tensors)].view(-1)[0] = float("nan")


def _sharded_into(name: str) -> Callable[[Path], None]:
    """Replaces the UNet's weights by an index that names a file elsewhere."""

    def change(folder: Path) -> None:
        file = folder / f"{UNET}.safetensors"
        names = dict.fromkeys(load_file(file), name)
        file.unlink()
        (folder / f"{UNET}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))

    return change


def _adapter_beside_the_text_encoder(folder: Path) -> None:
    config = {"peft_type": "LORA", "base_model_name_or_path": "somebody/else"}
    (folder / "text_encoder" / "adapter_config.json").write_text(json.dumps(config))


def _dataset(listing: str, *subjects: str) -> Callable[[World], list[str]]:
    """A training on the subject `dog` of a dataset with this classes.csv."""

    def command(world: World) -> list[str]:
        world.path("dataset/classes.csv", listing)
        for name in subjects:
            world.path(f"dataset/{name}/1.png", encoded(image(), "PNG"))
        chosen = [f"data.dataset={world.folder / 'dataset'}", "data.subject=dog"]
        return world.train(*chosen, "data.photos=none", "data.class_word=none")

    return command


REFUSED = (
    Case(
        name="a model without its VAE",
        command=base(lambda folder: shutil.rmtree(folder / "vae")),
        says=("model.base=", "no vae/", "expected a diffusers folder"),
    ),
    Case(
        name="a model without weights",
        command=base(lambda folder: (folder / f"{UNET}.safetensors").unlink()),
        says=("/base/unet", "no weights", "expected diffusion_pytorch_model.safetensors"),
    ),
    Case(name="a model of pickles", command=base(_pickles_only), says=("/base/unet", "run code", "save_pretrained")),
    Case(
        name="weights of the wrong shape",
        command=base(lambda folder: edit_json(folder / "unet/config.json", cross_attention_dim=32)),
        says=("model.base=", "/base/unet", "cannot be loaded"),
    ),
    Case(
        name="weights that lack a tensor",
        command=base(lambda folder: edit_tensors(folder / f"{UNET}.safetensors", lambda t: t.pop("conv_in.weight"))),
        says=("/base/unet", "lack 'conv_in.weight'", "fetch them again"),
    ),
    Case(
        name="weights that are not a number",
        command=base(lambda folder: edit_tensors(folder / f"{UNET}.safetensors", _first_to_nan)),
        says=("/base/unet", "holds NaN", "use another"),
    ),
    Case(
        name="weights with a header that lies about its length",
        command=base(lambda folder: (folder / f"{UNET}.safetensors").write_bytes(lying(b"{}", 2**60))),
        says=("/base/unet", "cannot be loaded"),
    ),
    Case(
        name="an index that names files elsewhere",
        command=base(_sharded_into("../../../secret.safetensors")),
        says=("diffusion_pytorch_model.safetensors.index.json", "'../../../secret.safetensors'", "beside it"),
    ),
    Case(
        name="an index that names a pickle",
        command=base(_sharded_into("diffusion_pytorch_model.bin")),
        says=("diffusion_pytorch_model.safetensors.index.json", "'diffusion_pytorch_model.bin'", ".safetensors"),
    ),
    Case(
        name="an adapter hidden beside the text encoder",
        command=base(_adapter_beside_the_text_encoder),
        says=("text_encoder/adapter_config.json", "does not belong", "move it elsewhere"),
    ),
    Case(
        name="a config that asks for code from the hub",
        command=base(lambda folder: edit_json(folder / "text_encoder/config.json", attn_implementation="some/kernel")),
        says=("text_encoder/config.json", "attn_implementation", "remove"),
    ),
    Case(
        name="a config that is no JSON",
        command=base(lambda folder: (folder / "unet/config.json").write_text("{")),
        says=("unet/config.json", "not a readable config"),
    ),
    Case(
        name="a config without its sizes",
        command=base(lambda folder: (folder / "vae/config.json").write_text("{}")),
        says=("vae/config.json", "block_out_channels"),
    ),
    Case(
        name="another kind of model",
        command=base(lambda folder: edit_json(folder / "unet/config.json", addition_embed_type="text_image")),
        says=("model.base=", "its family is not known", "SDXL"),
    ),
    Case(
        name="an unknown hub id while offline",
        command=lambda world: world.train("model.base=nobody/nothing-here", "model.offline=true"),
        says=("model.base=nobody/nothing-here", "model.offline=true", "go online once", "miniature"),
    ),
    Case(
        name="a name that is neither folder nor hub id",
        command=lambda world: world.train("model.base=my model"),
        says=("model.base=my model", "no such folder", "accepted:"),
    ),
    Case(
        name="a single file that is no whole checkpoint",
        command=lambda world: world.train(f"model.base={world.path('sd.safetensors', lying(b'{}'))}"),
        says=("model.base=", "single file", "diffusers folder"),
    ),
    Case(
        name="an adapter that is not a number",
        command=adapter(lambda run: edit_tensors(run / ADAPTER, _first_to_nan)),
        says=("adapter_model.safetensors", "not finite"),
    ),
    Case(
        name="an adapter that was cut off",
        command=adapter(lambda run: (run / ADAPTER).write_bytes((run / ADAPTER).read_bytes()[:-7])),
        says=("adapter_model.safetensors", "not a whole safetensors file", "again"),
    ),
    Case(
        name="an adapter of pickles",
        command=adapter(lambda run: torch.save({"a": torch.ones(1)}, run / "adapter/adapter_model.bin")),
        says=("adapter_model.bin", "pickle", "only .safetensors"),
    ),
    Case(
        name="a LoRA file for another model",
        command=lambda world: world.generate(
            f"run={_lora_for_another_model(world)}", f"model.base={world.base}", "data.class_word=dog"
        ),
        says=("other.safetensors", "made for another base"),
    ),
    Case(
        name="an unknown subject",
        command=lambda world: world.train(
            "data.dataset=miniature", "data.subject=dgo", "data.photos=none", "data.class_word=none"
        ),
        says=("unknown subject 'dgo'", "data.subject", "did you mean 'dog'"),
    ),
    Case(
        name="a subject without photos",
        command=_dataset("subject_name,class\ndog,dog\ncat,cat\n", "cat"),
        says=("/dataset/dog", "No such file"),
    ),
    Case(
        name="two subjects of one name",
        command=_dataset("subject_name,class\ndog,dog\ndog,cat\n", "dog"),
        says=("classes.csv", "'dog' is listed twice", "must differ"),
    ),
    Case(
        name="a subject in another folder",
        command=_dataset("subject_name,class\n../../etc,dog\ndog,dog\n", "dog"),
        says=("classes.csv", "every name the name of a folder beside it"),
    ),
    Case(
        name="a list of subjects that is no text",
        command=_dataset("a,\0\0\xff", "dog"),
        says=("classes.csv", "subject_name"),
    ),
    Case(
        name="a dataset that does not exist",
        command=lambda world: world.train("data.dataset=/nowhere", "data.subject=dog", "data.photos=none"),
        says=("data.dataset=/nowhere", "no such folder", "fetch_dreambooth.py"),
    ),
)


def _lora_for_another_model(world: World) -> Path:
    file = world.folder / "other.safetensors"
    key = "lora_unet_down_blocks_0_attentions_9_proj_in"
    save_file({f"{key}.lora_down.weight": torch.ones(2, 4), f"{key}.lora_up.weight": torch.ones(4, 2)}, file)
    return file
