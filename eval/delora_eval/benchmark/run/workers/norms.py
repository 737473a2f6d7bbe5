"""Fig. 4: how large the pretrained projections are, by block, in both readings of "column norm". No training."""

from collections.abc import Iterable
from typing import Any

from delora_eval.benchmark.folder import BenchmarkFolder
from delora_eval.benchmark.methods import dotted
from delora_eval.benchmark.settings import BenchmarkConfig
from delora_sd.config.overlay import with_settings
from delora_sd.files.run_folder import write_json
from delora_sd.settings import TrainConfig

PROJECTIONS = {"to_q": "Q", "to_k": "K", "to_v": "V", "to_out.0": "Out"}


def write_weight_norms(config: BenchmarkConfig, folder: BenchmarkFolder) -> None:
    """Measures the base model's weights and writes weight_norms.json; done once per benchmark."""
    if folder.norms.exists():
        return
    import torch

    from delora_sd.diffusion.bases import find_base
    from delora_sd.diffusion.parts import load_denoiser

    train = with_settings(TrainConfig(), dotted(config.train, where="train"), source="train")
    base = find_base(train.model)
    unet = load_denoiser(base, device=torch.device("cpu"), dtype=torch.float32)
    layers = ((name, module.weight) for name, module in unet.named_modules() if _projection(name))
    write_json(folder.norms, {"base": base.name} | mean_norms(layers))


def mean_norms(layers: Iterable[tuple[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Returns {reading: {block: {Q, K, V, Out: mean norm}}} of named weights (out, in).

    `input`: per input feature, torch dim=0, as DeLoRA's code computes it. `output`: per output row, dim=1, which is a
    column of the paper's W in Wᵀx.
    """
    sums: dict[str, dict[str, dict[str, list[float]]]] = {"input": {}, "output": {}}
    for name, weight in layers:
        for reading, dim in (("input", 0), ("output", 1)):
            block = sums[reading].setdefault(_block(name), {})
            block.setdefault(PROJECTIONS[_projection(name)], []).append(weight.norm(dim=dim).mean().item())
    return {
        reading: {
            block: {kind: sum(values) / len(values) for kind, values in kinds.items()}
            for block, kinds in blocks.items()
        }
        for reading, blocks in sums.items()
    }


def _projection(name: str) -> str | None:
    return next((ending for ending in PROJECTIONS if name.endswith(f".{ending}")), None)


def _block(name: str) -> str:
    """`down_blocks.0.attentions...` is `down_blocks.0`; the middle has no number."""
    parts = name.split(".")
    return parts[0] if parts[0] == "mid_block" else ".".join(parts[:2])
