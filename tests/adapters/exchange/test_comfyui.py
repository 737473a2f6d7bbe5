"""ComfyUI's arithmetic, restated from its source: what a kohya file of ours becomes there."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from delora_sd.adapters.exchange.merge.comfyui import patched_by_comfyui, patched_weights
from delora_sd.adapters.exchange.plain_lora.reading import PlainLayer
from delora_sd.adapters.exchange.plain_lora.writing import Provenance, write_layout
from delora_sd.diffusion.unet.unets import kohya_key
from delora_sd.errors import UserError

NOBODY = Provenance(
    title="rex", base="", date="", size_px=None, trigger="", is_v_prediction=False, training={}, lineage={}
)


def as_in_comfyui(weight: Tensor, up: Tensor, down: Tensor, alpha: Tensor | None) -> Tensor:
    """comfy/model_patcher.py: patch_weight_to_device lifts the weight to float32 and casts what comes back.

    comfy/weight_adapter/lora.py, LoRAAdapter.calculate_weight at strength 1, without dora_scale and mid:
    `alpha = v[2] / mat2.shape[0]` or 1.0; `lora_diff = torch.mm(mat1.flatten(start_dim=1), mat2.flatten(start_dim=1))
    .reshape(weight.shape)`; `weight += function(((strength * alpha) * lora_diff).type(weight.dtype))`.
    """
    lifted, mat1, mat2 = weight.to(torch.float32, copy=True), up.to(torch.float32), down.to(torch.float32)
    scale = 1.0 if alpha is None else alpha.item() / mat2.shape[0]
    lora_diff = torch.mm(mat1.flatten(start_dim=1), mat2.flatten(start_dim=1)).reshape(lifted.shape)
    lifted += ((1.0 * scale) * lora_diff).type(lifted.dtype)
    return lifted.to(weight.dtype)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.attn1 = torch.nn.ModuleDict({"to_q": torch.nn.Linear(6, 5)})
        self.conv_in = torch.nn.Conv2d(3, 4, 3)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(1)

    def layer(rank: int, shape: tuple[int, ...]) -> PlainLayer:
        down = torch.randn(rank, *shape[1:], generator=generator)
        return PlainLayer(down=down, up=torch.randn(shape[0], rank, generator=generator))

    layers = {"attn1.to_q": layer(2, (5, 6)), "conv_in": layer(3, (4, 3, 3, 3))}  # one alpha for two ranks
    write_layout(tmp_path / "rex.kohya.safetensors", layers, NOBODY, layout="kohya", precision="fp16")
    return tmp_path / "rex.kohya.safetensors"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("has_alpha", [True, False])
def test_the_sum_is_made_in_fp32_and_rounded_once(file: Path, dtype: torch.dtype, has_alpha: bool):
    tensors = load_file(file)
    if not has_alpha:
        tensors = {name: value for name, value in tensors.items() if not name.endswith(".alpha")}
        save_file(tensors, file)
    model = Model().to(dtype)
    weights = {name: value.detach() for name, value in model.named_parameters()}
    found = patched_weights(file, weights, kohya_key)
    assert set(found) == {"attn1.to_q.weight", "conv_in.weight"}
    for name, value in found.items():
        key = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
        parts = (tensors[f"{key}.lora_up.weight"], tensors[f"{key}.lora_down.weight"], tensors.get(f"{key}.alpha"))
        assert value.dtype == dtype and torch.equal(value, as_in_comfyui(weights[name], *parts))
        assert not torch.equal(value, weights[name])


def test_the_model_is_as_it_was_afterwards_and_what_comfyui_leaves_out_is_named(file: Path):
    model = Model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ZeroDivisionError), patched_by_comfyui(model, file, kohya_key):
        assert not torch.equal(model.attn1["to_q"].weight, before["attn1.to_q.weight"])
        raise ZeroDivisionError
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    del model.conv_in
    with (
        pytest.raises(UserError, match="would leave 3 keys out, such as lora_unet_conv_in"),
        patched_by_comfyui(model, file, kohya_key),
    ):
        pass
