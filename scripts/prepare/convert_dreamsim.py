#!/usr/bin/env python
"""Makes dreamsim-ensemble.safetensors of DreamSim's published checkpoints, which are pickles. Once, on any machine.

    1. download dreamsim_ensemble_checkpoint.zip from github.com/ssundaram21/dreamsim/releases (v0.2.0-checkpoints)
       and unzip it
    2. bring DINO's backbone: dino_vitbase16_pretrain.pth of facebookresearch/dino, or model.safetensors of
       timm/vit_base_patch16_224.dino on the hub (the same weights)
    3. python scripts/prepare/convert_dreamsim.py CHECKPOINTS --dino FILE --output WEIGHTS/dreamsim-ensemble.safetensors
    4. score with encoders.weights_dir=WEIGHTS

The pickles are read with weights_only=True in a process of its own, which ends before anything else happens. DreamSim's
LoRA is merged into the weights. The output is written whole or not at all.
"""

import argparse
import json
import multiprocessing
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from delora_eval.scoring.judges.networks.dreamsim import DreamSimEnsemble
from delora_sd.errors import UserError
from delora_sd.files.atomic import write_file

LORA = "ensemble_lora"
MEMBERS = {
    "dino": None,
    "clip": "clip_vitb16_pretrain.pth.tar",
    "open_clip": "open_clip_vitb16_pretrain.pth.tar",
}
"""DreamSim's encoders in its own order, and the file each comes from; DINO's is published elsewhere."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, help="the unzipped folder")
    parser.add_argument("--dino", type=Path, required=True, help="DINO ViT-B/16, .pth or .safetensors")
    parser.add_argument("--output", type=Path, default=Path("dreamsim-ensemble.safetensors"))
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=convert_or_say, args=(arguments.checkpoints, arguments.dino, arguments.output))
    process.start()
    process.join()
    if process.exitcode == 0:
        print(f"{arguments.output}: put it in a folder and give encoders.weights_dir=FOLDER")
    return process.exitcode or 0


def convert_or_say(checkpoints: Path, dino: Path, output: Path) -> None:
    try:
        convert(checkpoints, dino, output)
    except UserError as error:
        print(f"convert_dreamsim: {error}", file=sys.stderr)
        sys.exit(2)


def convert(checkpoints: Path, dino: Path, output: Path) -> None:
    """Writes the ensemble's tensors under the names of `DreamSimEnsemble`.

    Raises:
        UserError: a file is missing, or holds something else than DreamSim's.
    """
    lora = read_lora(checkpoints / LORA)
    tensors: dict[str, Tensor] = {}
    for place, (member, name) in enumerate(MEMBERS.items()):
        state = read_state(dino if name is None else checkpoints / name)
        projection = state.pop("proj", None)
        if projection is not None:
            tensors[f"{member}_projection"] = projection
        merge_lora(state, lora, prefix=f"base_model.model.extractor_list.{place}.model.")
        tensors |= {f"{member}.{key.replace('pos_drop.', 'norm_pre.')}": value for key, value in state.items()}
    unused = [key for key in lora["tensors"] if key not in lora["used"]]
    if unused:
        raise UserError(f"{checkpoints / LORA}: {len(unused)} tensors belong to no encoder, such as {unused[0]}")
    tensors = {
        key: value.float().contiguous() for key, value in tensors.items() if key.partition(".")[2][:5] != "head."
    }
    for key in ("dino.norm.weight", "dino.norm.bias"):
        tensors.pop(key, None)  # DreamSim takes DINO's token before the final norm
    check(tensors)
    write_file(output, lambda path: save_file(tensors, path))


def read_state(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise UserError(f"{file}: no such file; see --help for what to download")
    if file.suffix == ".safetensors":
        return load_file(file)
    loaded = torch.load(file, map_location="cpu", weights_only=True)
    return dict(loaded.get("state_dict", loaded))


def read_lora(folder: Path) -> dict:
    """Returns {tensors, scale, used}: the LoRA as peft saved it, and nothing of it used yet."""
    config = folder / "adapter_config.json"
    files = [folder / name for name in ("adapter_model.safetensors", "adapter_model.bin")]
    found = next((file for file in files if file.is_file()), None)
    if not config.is_file() or found is None:
        raise UserError(f"{folder}: expected adapter_config.json and adapter_model.safetensors or .bin")
    settings = json.loads(config.read_text())
    if settings.get("bias", "none") != "none" or settings.get("use_dora") or settings.get("use_rslora"):
        raise UserError(f"{config}: not a plain LoRA; this converter knows DreamSim v0.2.0's")
    return {"tensors": read_state(found), "scale": settings["lora_alpha"] / settings["r"], "used": set()}


def merge_lora(state: dict[str, Tensor], lora: dict, *, prefix: str) -> None:
    """Adds scale * B A to every weight of one encoder that the LoRA changes."""
    for key, down in lora["tensors"].items():
        if not key.startswith(prefix) or not key.endswith(".lora_A.weight"):
            continue
        other, target = key.replace("lora_A", "lora_B"), key.removeprefix(prefix).replace("lora_A.", "")
        if target not in state:
            raise UserError(f"the LoRA changes {target}, which its encoder does not have")
        state[target] = state[target].float() + lora["scale"] * (lora["tensors"][other].float() @ down.float())
        lora["used"] |= {key, other}


def check(tensors: dict[str, Tensor]) -> None:
    """Raises UserError when the tensors do not fill the judge's architecture, at whatever size they are."""
    blocks = {key.split(".")[2] for key in tensors if key.startswith("dino.blocks.")}
    width, projected = tensors["clip_projection"].shape
    heads = max(1, width // 64)
    sizes = {"embed_dim": width, "depth": len(blocks), "num_heads": heads}
    with torch.device("meta"):
        expected = DreamSimEnsemble(sizes=sizes, projected=projected).state_dict()
    different = sorted(expected.keys() ^ tensors.keys())
    different += [key for key in expected.keys() & tensors.keys() if expected[key].shape != tensors[key].shape]
    if different:
        raise UserError(f"not DreamSim's ensemble: {len(different)} tensors differ, such as {different[0]}")


if __name__ == "__main__":
    sys.exit(main())
