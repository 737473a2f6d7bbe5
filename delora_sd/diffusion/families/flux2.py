"""FLUX.2 klein (base): double and single blocks, Qwen3's hidden states, latents normalised by statistics.

Every fact is that of diffusers' Flux2KleinPipeline.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from delora_sd.diffusion.families.family import Base, Condition, Conditions, Configs, ExportNames, Facts, Family, Shapes
from delora_sd.diffusion.loading import load_diffusers_part
from delora_sd.diffusion.noise.flow import USUAL_NUM_STEPS, EulerSolver, Flow, read_flow_schedule
from delora_sd.diffusion.text import qwen
from delora_sd.errors import UserError
from delora_sd.settings import TrainingConfig

KLEIN_BASE = "black-forest-labs/FLUX.2-klein-base-4B"
PATCH = 2
"""Latents per token and side."""
LAYERS_KEY = "text_encoder_out_layers"
"""The pipeline's argument; small models say theirs under this name in the text encoder's config."""
KLEIN_LAYERS = (9, 18, 27)
"""Hidden states of Qwen3's 36 that klein was trained on (10, 20, 30 are those of FLUX.2-dev's encoder)."""

_MU_LINE_10 = (8.73809524e-05, 1.89833333)
_MU_LINE_200 = (0.00016927, 0.45666666)
_MANY_TOKENS = 4300
"""BFL's fit of the best shift: a line in the number of tokens at 10 steps, one at 200, between them by steps."""

DOUBLE = (
    "attn.to_q",
    "attn.to_k",
    "attn.to_v",
    "attn.to_out.0",
    "add_q_proj",
    "add_k_proj",
    "add_v_proj",
    "to_add_out",
)
SINGLE_INPUTS = ("to_qkv_mlp_proj",)
SINGLE_OUTPUTS = ("attn.to_out",)
"""A list of layers in the double blocks, a layer in the single ones: attention and MLP in one."""


def _claims(configs: Configs) -> bool:
    return configs.get("transformer", {}).get("_class_name") == "Flux2Transformer2DModel"


def _refuse(source: str, configs: Configs) -> None:
    if configs["transformer"].get("guidance_embeds", True):
        raise UserError(
            f"{source}: FLUX.2-dev takes the guidance as an input (distilled) and has another text encoder; "
            f"use {KLEIN_BASE}"
        )


def _read_facts(source: str, configs: Configs) -> Facts:
    transformer, vae, text_encoder = (configs[part] for part in ("transformer", "vae", "text_encoder"))
    qwen.check_is_qwen3(source, text_encoder)
    factor = PATCH * 2 ** (len(vae["block_out_channels"]) - 1)
    channels = PATCH**2 * vae.get("latent_channels", 32)
    if transformer.get("in_channels", 128) != channels or transformer.get("out_channels") not in (None, channels):
        raise UserError(
            f"{source}: the transformer takes {transformer.get('in_channels', 128)} channels, the VAE's latents give "
            f"{channels} in patches of {PATCH} x {PATCH}; special models are not supported"
        )
    _check_text_layers(source, transformer, text_encoder)
    return Facts(
        own_px=_side(vae.get("sample_size", 1024)),
        smallest_px=factor,
        latent_channels=channels,
        latent_factor=factor,
        num_text_tokens=qwen.num_text_tokens(source, text_encoder),
        schedule=read_flow_schedule(configs["scheduler"], source=source),
        version="flux2-klein",
        is_distilled=bool(configs.get("model_index", {}).get("is_distilled", False)),
    )


def _side(sample_size: int | list[int]) -> int:
    return sample_size if isinstance(sample_size, int) else min(sample_size)


def text_layers(text_encoder: dict) -> tuple[int, ...]:
    """Returns which hidden states condition the transformer."""
    return tuple(text_encoder.get(LAYERS_KEY, KLEIN_LAYERS))


def _check_text_layers(source: str, transformer: dict, text_encoder: dict) -> None:
    layers, num_layers = text_layers(text_encoder), text_encoder.get("num_hidden_layers", 32)
    are_layers = all(type(layer) is int and 0 <= layer < num_layers for layer in layers)
    if not layers or not are_layers:
        raise UserError(f"{source}: text layers {list(layers)} of an encoder with {num_layers}; name some below that")
    width, expected = len(layers) * text_encoder.get("hidden_size", 4096), transformer.get("joint_attention_dim", 15360)
    if width != expected:
        raise UserError(
            f"{source}: the transformer reads text of width {expected}, {len(layers)} stacked layers of the text "
            f"encoder give {width}; get the model again"
        )


def _load_denoiser(base: Base, *, device: torch.device | str, dtype: torch.dtype) -> nn.Module:
    from diffusers import Flux2Transformer2DModel

    return load_diffusers_part(Flux2Transformer2DModel, base, "transformer", device=device, dtype=dtype)


def _load_vae(base: Base, *, device: torch.device | str, dtype: torch.dtype) -> nn.Module:
    from diffusers import AutoencoderKLFlux2

    return load_diffusers_part(AutoencoderKLFlux2, base, "vae", device=device, dtype=dtype)


def _load_text(base: Base, *, device: torch.device | str, dtype: torch.dtype) -> qwen.TextEncoder:
    layers = text_layers(base.configs["text_encoder"])
    return qwen.load_text_encoder(base, device=device, dtype=dtype, layers=layers)


def _encode_prompts(texts: Sequence[str], text: qwen.TextEncoder) -> list[Condition]:
    """The chosen hidden states side by side; padding stays in, the transformer was trained to see it."""

    def stacked(states: tuple[Tensor, ...]) -> Tensor:
        return torch.cat([states[layer] for layer in text.layers], dim=-1)

    return [{"tokens": tokens} for tokens, _ in qwen.encode(texts, text, stacked, is_thinking=False)]


def _encode_images(images: Tensor, vae: nn.Module) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the posterior in patches, by the running statistics of the VAE's batch norm."""
    posterior = vae.encode(images).latent_dist
    mean, std = statistics(vae)
    return (patchify(posterior.mean.float()) - mean) / std, patchify(posterior.std.float()) / std


def _decode_latents(latents: Tensor, vae: nn.Module) -> Tensor:
    mean, std = statistics(vae)
    return vae.decode(unpatchify(latents.float() * std + mean).to(vae.dtype)).sample


def statistics(vae: nn.Module) -> tuple[Tensor, Tensor]:
    """Returns mean and deviation of the patched latents, (channels, 1, 1), fp32."""
    variance = vae.bn.running_var.float() + vae.config.batch_norm_eps
    return vae.bn.running_mean.float().view(-1, 1, 1), variance.sqrt().view(-1, 1, 1)


def patchify(latents: Tensor) -> Tensor:
    """(n, c, h, w) -> (n, 4 c, h / 2, w / 2): the four of a patch lie side by side, row by row, within each channel."""
    n, channels, height, width = latents.shape
    patches = latents.reshape(n, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return patches.permute(0, 1, 3, 5, 2, 4).reshape(n, channels * PATCH**2, height // PATCH, width // PATCH)


def unpatchify(patches: Tensor) -> Tensor:
    """The way back of `patchify`."""
    n, channels, height, width = patches.shape
    latents = patches.reshape(n, channels // PATCH**2, PATCH, PATCH, height, width).permute(0, 1, 4, 2, 5, 3)
    return latents.reshape(n, channels // PATCH**2, height * PATCH, width * PATCH)


def _predict(transformer: nn.Module, latents: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
    tokens = conditions["tokens"]
    n, _, height, width = latents.shape
    image_ids, text_ids = position_ids(height, width, tokens.shape[1], latents.device)
    velocity = transformer(
        hidden_states=latents.to(tokens.dtype).flatten(2).mT,
        encoder_hidden_states=tokens,
        timestep=times.to(latents.device).expand(n),
        img_ids=image_ids,
        txt_ids=text_ids,
        guidance=None,
        return_dict=False,
    )[0]
    return velocity.mT.unflatten(2, (height, width))


def position_ids(height: int, width: int, num_words: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns (image, text) places in four axes: time, row, column, word; (tokens, 4)."""
    one, rows, columns, words = (torch.arange(count, device=device) for count in (1, height, width, num_words))
    return torch.cartesian_prod(one, rows, columns, one), torch.cartesian_prod(one, one, one, words)


def klein_mu(num_tokens: int, num_steps: int) -> float:
    """Returns the shift that BFL found best for images of so many tokens in so many steps."""
    at_200 = _MU_LINE_200[0] * num_tokens + _MU_LINE_200[1]
    if num_tokens > _MANY_TOKENS:
        return at_200
    at_10 = _MU_LINE_10[0] * num_tokens + _MU_LINE_10[1]
    slope = (at_200 - at_10) / 190
    return at_200 + slope * (num_steps - 200)


def _mu(base: Base, num_steps: int) -> float:
    if not base.schedule.is_dynamic:
        return base.schedule.mu(0, num_steps)
    return klein_mu(base.latent_side**2, num_steps)  # of tokens: a patch is one, not its four latents


def _objective(base: Base, training: TrainingConfig, device: torch.device) -> Flow:
    return Flow(sampling=training.sigma_sampling, weighting=training.sigma_weighting, mu=_mu(base, USUAL_NUM_STEPS))


def _solver(base: Base, num_steps: int, *, device: torch.device | str = "cpu") -> EulerSolver:
    return EulerSolver(num_steps, _mu(base, num_steps), device=device)


def _condition_shapes(base: Base) -> dict[str, tuple[int, ...]]:
    return {"tokens": (base.num_text_tokens, base.configs["transformer"].get("joint_attention_dim", 15360))}


def _lora_pipeline(transformer: nn.Module, vae: nn.Module) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline

    return Flux2KleinPipeline(
        transformer=transformer,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(),  # not used: the pipeline only loads
        text_encoder=None,
        tokenizer=None,
    )


def _fused_rows(transformer: nn.Module) -> dict[str, tuple[int, ...]]:
    """Query, key, value and the MLP's input in one matrix."""
    found = {}
    for name, layer in transformer.named_modules():
        if name.endswith("to_qkv_mlp_proj"):
            attention = transformer.get_submodule(name.rpartition(".")[0])
            width = attention.inner_dim
            found[name] = (width, width, width, layer.out_features - 3 * width)
    return found


def _is_ours(shapes: Shapes) -> bool:
    return any(layer.startswith(("single_transformer_blocks.", "transformer_blocks.")) for layer in shapes)


_BFL_NAMES = {
    "attn.to_q": ("img_attn_qkv", 0, 3), "attn.to_k": ("img_attn_qkv", 1, 3), "attn.to_v": ("img_attn_qkv", 2, 3),
    "attn.add_q_proj": ("txt_attn_qkv", 0, 3), "attn.add_k_proj": ("txt_attn_qkv", 1, 3),
    "attn.add_v_proj": ("txt_attn_qkv", 2, 3), "attn.to_out.0": ("img_attn_proj", 0, 1),
    "attn.to_add_out": ("txt_attn_proj", 0, 1), "ff.linear_in": ("img_mlp_0", 0, 1),
    "ff.linear_out": ("img_mlp_2", 0, 1), "ff_context.linear_in": ("txt_mlp_0", 0, 1),
    "ff_context.linear_out": ("txt_mlp_2", 0, 1), "attn.to_qkv_mlp_proj": ("linear1", 0, 1),
    "attn.to_out": ("linear2", 0, 1),
}  # fmt: skip
"""{end of diffusers' name: (BFL's, which part of it, of how many)}"""


def _kohya_key(layer: str) -> str:
    """In BFL's names, which kohya's tools, ComfyUI and diffusers read."""
    blocks, number, end = (*layer.split(".", 2), "", "")[:3]
    side = {"transformer_blocks": "double_blocks", "single_transformer_blocks": "single_blocks"}.get(blocks)
    name = f"{side}_{number}_{_BFL_NAMES[end][0]}" if side and end in _BFL_NAMES else layer.replace(".", "_")
    return f"lora_unet_{name}"


def _kohya_part(layer: str) -> tuple[int, int]:
    return _BFL_NAMES.get((*layer.split(".", 2), "", "")[2], ("", 0, 1))[1:]


def _with_text_layers(configs: Configs, layers: tuple[int, ...]) -> Configs:
    return {**configs, "text_encoder": configs["text_encoder"] | {LAYERS_KEY: list(layers)}}


FLUX2 = Family(
    name="flux2",
    title="FLUX.2 klein",
    denoiser="transformer",
    weight_files={
        "transformer": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "text_encoder": "model",
    },
    classes={"transformer": "Flux2Transformer2DModel", "vae": "AutoencoderKLFlux2"},
    tokenizers=("tokenizer",),
    pipeline="Flux2KleinPipeline",
    architectures=("flux2-klein-architecture",),
    default_layers=(*DOUBLE, *SINGLE_INPUTS, *SINGLE_OUTPUTS),
    claims=_claims,
    refuse=_refuse,
    read_facts=_read_facts,
    load_denoiser=_load_denoiser,
    load_vae=_load_vae,
    load_text=_load_text,
    encode_prompts=_encode_prompts,
    encode_images=_encode_images,
    decode_latents=_decode_latents,
    objective=_objective,
    solver=_solver,
    predict=_predict,
    condition_shapes=_condition_shapes,
    lora_pipeline=_lora_pipeline,
    with_text_layers=_with_text_layers,
    fused_rows=_fused_rows,
    export=ExportNames(
        claims_layers=_is_ours,
        kohya_key=_kohya_key,
        kohya_part=_kohya_part,
        flows=True,
        modelspec=lambda shapes, is_v_prediction: "flux-2-klein-4b",
        kohya_version=lambda shapes, is_v_prediction: "flux2_klein_4b",
    ),
)
