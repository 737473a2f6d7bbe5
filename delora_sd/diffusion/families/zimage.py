"""Z-Image (base): one stream of text and image tokens, captions of their own length, the flow reversed.

Every fact is that of diffusers' ZImagePipeline. The model's clock runs from noise (0) to image (1), and what it returns
points towards the image: both are turned here, so that outside a flow is a flow.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from delora_sd.diffusion.families.family import Base, Condition, Conditions, Configs, ExportNames, Facts, Family, Shapes
from delora_sd.diffusion.loading import load_diffusers_part
from delora_sd.diffusion.noise.flow import USUAL_NUM_STEPS, EulerSolver, Flow, read_flow_schedule
from delora_sd.diffusion.text import qwen
from delora_sd.diffusion.unet import unets
from delora_sd.errors import UserError
from delora_sd.settings import TrainingConfig

TEXT_STATE = -2
"""Which of Qwen3's hidden states is read: the last but one."""
PATCH = 2
"""Latents per token and side; the transformer makes its patches itself."""
ATTENTION = ("attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0")


def _claims(configs: Configs) -> bool:
    return configs.get("transformer", {}).get("_class_name") == "ZImageTransformer2DModel"


def _refuse(source: str, configs: Configs) -> None:
    transformer = configs["transformer"]
    if transformer.get("siglip_feat_dim") is not None:
        raise UserError(f"{source}: Z-Image Omni also takes images as prompts, which is not supported; use Z-Image")
    if list(transformer.get("all_patch_size", [PATCH])) != [PATCH]:
        raise UserError(f"{source}: a Z-Image of patches {transformer['all_patch_size']}; expected [{PATCH}]")


def _read_facts(source: str, configs: Configs) -> Facts:
    transformer, vae, text_encoder = (configs[part] for part in ("transformer", "vae", "text_encoder"))
    qwen.check_is_qwen3(source, text_encoder)
    channels, width = vae.get("latent_channels", 4), text_encoder.get("hidden_size", 4096)
    if transformer.get("in_channels", 16) != channels:
        raise UserError(
            f"{source}: the transformer takes {transformer.get('in_channels', 16)} channels, the VAE gives {channels}"
        )
    if transformer.get("cap_feat_dim", 2560) != width:
        raise UserError(
            f"{source}: the transformer reads text of width {transformer.get('cap_feat_dim', 2560)}, the text encoder "
            f"gives {width}; get the model again"
        )
    factor = unets.vae_factor(vae)
    return Facts(
        own_px=vae.get("sample_size", 1024),
        smallest_px=PATCH * factor,
        latent_channels=channels,
        latent_factor=factor,
        num_text_tokens=qwen.num_text_tokens(source, text_encoder),
        schedule=read_flow_schedule(configs["scheduler"], source=source),
        version="zimage",
        is_distilled=bool(re.search("turbo|distill", source, re.IGNORECASE)),  # no config of Turbo says so
    )


def _load_denoiser(base: Base, *, device: torch.device | str, dtype: torch.dtype) -> nn.Module:
    from diffusers import ZImageTransformer2DModel

    return load_diffusers_part(ZImageTransformer2DModel, base, "transformer", device=device, dtype=dtype)


def _load_text(base: Base, *, device: torch.device | str, dtype: torch.dtype) -> qwen.TextEncoder:
    return qwen.load_text_encoder(base, device=device, dtype=dtype)


def _encode_prompts(texts: Sequence[str], text: qwen.TextEncoder) -> list[Condition]:
    """Each caption's own tokens first, then zeros, with their number: the transformer is shown the first alone."""
    found = []
    for states, is_word in qwen.encode(texts, text, lambda states: states[TEXT_STATE], is_thinking=True):
        own = states[is_word]
        padding = states.new_zeros(len(states) - len(own), states.shape[1])
        found.append({"tokens": torch.cat([own, padding]), "num_tokens": torch.tensor(len(own), device=states.device)})
    return found


def _encode_images(images: Tensor, vae: nn.Module) -> tuple[Tensor, Tensor]:
    posterior = vae.encode(images).latent_dist
    scale, shift = vae.config.scaling_factor, vae.config.shift_factor or 0.0
    return (posterior.mean.float() - shift) * scale, posterior.std.float() * scale


def _decode_latents(latents: Tensor, vae: nn.Module) -> Tensor:
    shift = vae.config.shift_factor or 0.0
    return vae.decode((latents / vae.config.scaling_factor + shift).to(vae.dtype)).sample


def _predict(transformer: nn.Module, latents: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
    tokens = conditions["tokens"]
    captions = [own[:count] for own, count in zip(tokens, _num_own_tokens(conditions), strict=True)]
    images = list(latents.to(tokens.dtype).unsqueeze(2))  # (channels, 1 frame, height, width) each
    clock = 1 - times.to(latents.device).expand(len(latents))
    towards_image = transformer(images, clock, captions, return_dict=False)[0]
    return -torch.stack(list(towards_image)).squeeze(2)


def _num_own_tokens(conditions: Conditions) -> list[int]:
    """Of each caption; on shapes alone nobody knows, and the longest is what must fit."""
    tokens = conditions["tokens"]
    return [tokens.shape[1]] * len(tokens) if tokens.is_meta else conditions["num_tokens"].tolist()


def _num_tokens(base: Base) -> int:
    return (base.latent_side // PATCH) ** 2


def _objective(base: Base, training: TrainingConfig, device: torch.device) -> Flow:
    mu = base.schedule.mu(_num_tokens(base), USUAL_NUM_STEPS)
    return Flow(sampling=training.sigma_sampling, weighting=training.sigma_weighting, mu=mu)


def _solver(base: Base, num_steps: int, *, device: torch.device | str = "cpu") -> EulerSolver:
    return EulerSolver(num_steps, base.schedule.mu(_num_tokens(base), num_steps), device=device)


def _condition_shapes(base: Base) -> dict[str, tuple[int, ...]]:
    return {"tokens": (base.num_text_tokens, base.configs["transformer"].get("cap_feat_dim", 2560)), "num_tokens": ()}


def _lora_pipeline(transformer: nn.Module, vae: nn.Module) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline

    return ZImagePipeline(
        transformer=transformer,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(),  # not used: the pipeline only loads
        text_encoder=None,
        tokenizer=None,
    )


def _is_ours(shapes: Shapes) -> bool:
    return any(layer.startswith(("layers.", "noise_refiner.", "context_refiner.")) for layer in shapes)


ZIMAGE = Family(
    name="zimage",
    title="Z-Image",
    denoiser="transformer",
    weight_files={
        "transformer": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "text_encoder": "model",
    },
    classes={"transformer": "ZImageTransformer2DModel", "vae": "AutoencoderKL"},
    tokenizers=("tokenizer",),
    pipeline="ZImagePipeline",
    architectures=("zimage-architecture",),
    default_layers=ATTENTION,
    claims=_claims,
    refuse=_refuse,
    read_facts=_read_facts,
    load_denoiser=_load_denoiser,
    load_vae=unets.load_kl_vae,
    load_text=_load_text,
    encode_prompts=_encode_prompts,
    encode_images=_encode_images,
    decode_latents=_decode_latents,
    objective=_objective,
    solver=_solver,
    predict=_predict,
    condition_shapes=_condition_shapes,
    lora_pipeline=_lora_pipeline,
    export=ExportNames(
        claims_layers=_is_ours,
        kohya_key=lambda layer: f"diffusion_model.{layer}",  # what diffusers and ComfyUI both read of q, k and v apart
        flows=True,
        modelspec=lambda shapes, is_v_prediction: "z-image",
        kohya_version=lambda shapes, is_v_prediction: "zimage",
    ),
)
