"""Stable Diffusion XL's base: two CLIPs, a pooled embedding, and the size and crop of each image told to the UNet.

Podell et al. 2023, "SDXL: Improving Latent Diffusion Models for High-Resolution Image Synthesis" (Sec. 2.2, App. D).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from delora_sd.diffusion.families.family import (
    SIZES,
    Base,
    Checkpoint,
    Condition,
    Conditions,
    Configs,
    ExportNames,
    Facts,
    Family,
    Recognised,
    Shapes,
    SingleFiles,
)
from delora_sd.diffusion.loading import load_transformers_part
from delora_sd.diffusion.noise.schedule import read_noise_schedule
from delora_sd.diffusion.text import clip
from delora_sd.diffusion.text.clip_words import write_clip_tokenizer
from delora_sd.diffusion.unet import unets
from delora_sd.diffusion.unet.stability_names import original_name
from delora_sd.errors import UserError

_REFINER = (
    "SDXL's refiner polishes the last steps of another model's images; use the base model, such as "
    "stabilityai/stable-diffusion-xl-base-1.0"
)

NUM_SIZES = 6
"""Numbers the UNet is told of an image's size; the refiner takes five others."""


@dataclass(frozen=True, kw_only=True)
class TextEncoders:
    """CLIP L and OpenCLIP bigG, each with its own tokenizer."""

    tokenizer: Any
    encoder: nn.Module
    tokenizer_2: Any
    encoder_2: nn.Module


def _claims(configs: Configs) -> bool:
    return configs.get("unet", {}).get("addition_embed_type") == "text_time"


def _refuse(source: str, configs: Configs) -> None:
    if configs.get("model_index", {}).get("requires_aesthetics_score") or _is_refiner(configs["unet"]):
        raise UserError(f"{source}: {_REFINER}")
    if not isinstance(configs["unet"].get("cross_attention_dim"), int):
        raise UserError(f"{source}: not an SDXL: its UNet has no single width of text")


def _is_refiner(unet: dict) -> bool:
    return unet.get("projection_class_embeddings_input_dim") == 2560  # 1280 pooled + 5 numbers in 256 each


def _read_facts(source: str, configs: Configs) -> Facts:
    unet, vae, first, second = (configs[part] for part in ("unet", "vae", "text_encoder", "text_encoder_2"))
    unets.check_unet(source, unet, vae)
    _check_widths(source, unet, first, second)
    if vae.get("latents_mean") is not None:
        raise UserError(f"{source}: its VAE shifts latents by a mean of its own, which is not supported")
    factor = unets.vae_factor(vae)
    own_px = unet["sample_size"] * factor
    tokens = [clip.num_text_tokens(source, configs[part], part=part) for part in ("text_encoder", "text_encoder_2")]
    return Facts(
        own_px=own_px,
        smallest_px=unets.smallest_px(unet, vae),
        latent_channels=vae.get("latent_channels", 4),
        latent_factor=factor,
        num_text_tokens=min(tokens),
        schedule=read_noise_schedule(configs["scheduler"], source=source),
        version="sdxl",
        advised_px=own_px * 3 // 4,
    )


def _check_widths(source: str, unet: dict, first: dict, second: dict) -> None:
    width, pooled = unet["cross_attention_dim"], second.get("projection_dim", 512)
    if width != first.get("hidden_size", 512) + second.get("hidden_size", 512):
        raise UserError(
            f"{source}: the UNet reads text of width {width}, the two text encoders give "
            f"{first.get('hidden_size', 512)} + {second.get('hidden_size', 512)}; get the model again"
        )
    expected = pooled + NUM_SIZES * (unet.get("addition_time_embed_dim") or 0)
    if unet.get("projection_class_embeddings_input_dim") != expected:
        raise UserError(
            f"{source}: the UNet takes {unet.get('projection_class_embeddings_input_dim')} numbers beside the text, "
            f"an SDXL base takes {expected} (pooled text and {NUM_SIZES} sizes)"
        )


def _load_vae(base: Base, *, device: torch.device | str, dtype: torch.dtype) -> nn.Module:
    """In fp32 where fp16 is asked of a VAE whose activations overflow it: SDXL's own says so (`force_upcast`)."""
    overflows = dtype == torch.float16 and base.configs["vae"].get("force_upcast", True)
    return unets.load_kl_vae(base, device=device, dtype=torch.float32 if overflows else dtype)


def _load_text(base: Base, *, device: torch.device | str, dtype: torch.dtype) -> TextEncoders:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    tokenizer, encoder = clip.load_text_encoder(base, device=device, dtype=dtype)
    second = load_transformers_part(
        CLIPTextModelWithProjection, CLIPTextConfig, base, "text_encoder_2", device=device, dtype=dtype
    )
    tokenizer_2 = clip.load_tokenizer(base, "tokenizer_2", "text_encoder_2")
    return TextEncoders(tokenizer=tokenizer, encoder=encoder, tokenizer_2=tokenizer_2, encoder_2=second)


def _encode_prompts(texts: Sequence[str], text: TextEncoders) -> list[Condition]:
    """Both encoders' last layer but one, side by side, and bigG's pooled text; all 0 for the empty prompt.

    Zeros are what SDXL learned for "no prompt", and what diffusers' pipeline takes where none is given.
    """
    clip.warn_if_cut(texts, text.tokenizer)
    device = text.encoder.device
    first = clip.in_batches(
        texts, text.tokenizer, lambda ids: text.encoder(ids.to(device), output_hidden_states=True).hidden_states[-2]
    )
    second, pooled = [], []
    for given in clip.in_batches(
        texts, text.tokenizer_2, lambda ids: text.encoder_2(ids.to(device), output_hidden_states=True)
    ):
        second.append(given.hidden_states[-2])
        pooled.append(given.text_embeds)
    tokens = torch.cat([torch.cat(first), torch.cat(second)], dim=-1)
    is_text = torch.tensor([bool(text) for text in texts], device=tokens.device)
    conditions = zip(tokens * is_text[:, None, None], torch.cat(pooled) * is_text[:, None], strict=True)
    return [{"tokens": own_tokens, "pooled": own_pooled} for own_tokens, own_pooled in conditions]


def _predict(unet: nn.Module, latents: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
    tokens = conditions["tokens"]
    added = {"text_embeds": conditions["pooled"], "time_ids": conditions[SIZES].to(tokens.dtype)}
    return unet(latents, times, encoder_hidden_states=tokens, added_cond_kwargs=added, return_dict=False)[0]


def _condition_shapes(base: Base) -> dict[str, tuple[int, ...]]:
    width = base.configs["unet"]["cross_attention_dim"]
    return {"tokens": (base.num_text_tokens, width), "pooled": (base.configs["text_encoder_2"]["projection_dim"],)}


def _lora_pipeline(unet: nn.Module, vae: nn.Module) -> Any:
    from diffusers import DDIMScheduler, StableDiffusionXLPipeline

    return StableDiffusionXLPipeline(
        unet=unet,
        vae=vae,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),  # not used: the pipeline only loads
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        add_watermarker=False,
    )


def _kohya_key(layer: str) -> str:
    """In Stability's names, as sd-scripts writes SDXL: with two resnets a block, and attention in the inner ones."""
    name = original_name(layer, num_resnets=2, with_attention={"0", "1"}) or layer
    return "lora_unet_" + name.replace(".", "_")


def _is_ours(shapes: Shapes) -> bool:
    return unets.has_unet_names(shapes) and unets.has_deep_blocks(shapes)


_FIRST_TEXT = "conditioner.embedders.0.transformer.text_model.embeddings.position_embedding.weight"
_REFINERS_TEXT = "conditioner.embedders.0.model.transformer.resblocks.0.attn.in_proj_weight"


def _recognise(source: str, checkpoint: Checkpoint) -> Recognised | None:
    if _REFINERS_TEXT in checkpoint.shapes:
        raise UserError(f"{source}: {_REFINER}")
    if _FIRST_TEXT not in checkpoint.shapes:
        return None
    unets.check_input_channels(source, checkpoint.shapes)
    return Recognised(architecture="sdxl-architecture", changes={"scheduler": unets.said_of_noise(checkpoint)})


def _write_tokenizer(folder: Path) -> None:
    write_clip_tokenizer(folder, **({"pad": "!"} if folder.name == "tokenizer_2" else {}))


SDXL = Family(
    name="sdxl",
    title="SDXL",
    denoiser="unet",
    weight_files=unets.WEIGHT_FILES | {"text_encoder_2": "model"},
    classes=unets.CLASSES,
    tokenizers=("tokenizer", "tokenizer_2"),
    pipeline="StableDiffusionXLPipeline",
    architectures=("sdxl-architecture",),
    released={"stabilityai/stable-diffusion-xl-base-1.0": "sdxl-architecture"},
    default_layers=unets.ATTENTION,
    claims=_claims,
    refuse=_refuse,
    read_facts=_read_facts,
    load_denoiser=unets.load_unet,
    load_vae=_load_vae,
    load_text=_load_text,
    encode_prompts=_encode_prompts,
    encode_images=unets.encode_images,
    decode_latents=unets.decode_latents,
    objective=unets.ddpm_objective,
    solver=unets.dpm_solver,
    predict=_predict,
    condition_shapes=_condition_shapes,
    lora_pipeline=_lora_pipeline,
    checkpoint=SingleFiles(
        recognise=_recognise,
        index=unets.INDEX
        | {
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "force_zeros_for_empty_prompt": True,
        },
        write_tokenizer=_write_tokenizer,
    ),
    export=ExportNames(
        claims_layers=_is_ours,
        kohya_key=_kohya_key,
        modelspec=lambda shapes, is_v_prediction: "stable-diffusion-xl-v1-base",
        kohya_version=lambda shapes, is_v_prediction: "sdxl_base_v1-0",
    ),
)
