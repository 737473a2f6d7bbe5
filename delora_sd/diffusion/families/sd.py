"""Stable Diffusion 1.x and 2.x: one CLIP, a UNet that predicts noise or v (Rombach et al. 2022; Lin et al. 2024)."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from delora_sd.diffusion.families.family import (
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
from delora_sd.diffusion.noise.schedule import read_noise_schedule
from delora_sd.diffusion.text import clip
from delora_sd.diffusion.text.clip_words import write_clip_tokenizer
from delora_sd.diffusion.unet import unets
from delora_sd.errors import UserError


def _claims(configs: Configs) -> bool:
    unet = configs.get("unet")
    return unet is not None and not unet.get("addition_embed_type")


def _refuse(source: str, configs: Configs) -> None:
    if not isinstance(configs["unet"].get("cross_attention_dim"), int):
        raise UserError(f"{source}: not a Stable Diffusion 1.x or 2.x: its UNet has no single width of text")


def _read_facts(source: str, configs: Configs) -> Facts:
    unet, vae = configs["unet"], configs["vae"]
    unets.check_unet(source, unet, vae)
    factor = unets.vae_factor(vae)
    is_sd2 = unet.get("use_linear_projection") or unet["cross_attention_dim"] == 1024
    return Facts(
        own_px=unet["sample_size"] * factor,
        smallest_px=unets.smallest_px(unet, vae),
        latent_channels=vae.get("latent_channels", 4),
        latent_factor=factor,
        num_text_tokens=clip.num_text_tokens(source, configs["text_encoder"]),
        schedule=read_noise_schedule(configs["scheduler"], source=source),
        version="sd2" if is_sd2 else "sd1",
    )


def _encode_prompts(texts: Sequence[str], text: Any) -> list[Condition]:
    return [{"tokens": tokens} for tokens in clip.encode_prompts(texts, *text)]


def _predict(unet: nn.Module, latents: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
    return unet(latents, times, encoder_hidden_states=conditions["tokens"], return_dict=False)[0]


def _condition_shapes(base: Base) -> dict[str, tuple[int, ...]]:
    return {"tokens": (base.num_text_tokens, base.configs["unet"]["cross_attention_dim"])}


def _lora_pipeline(unet: nn.Module, vae: nn.Module) -> Any:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    return StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),  # not used: the pipeline only loads
        text_encoder=None,
        tokenizer=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _is_ours(shapes: Shapes) -> bool:
    return unets.has_unet_names(shapes) and not unets.has_deep_blocks(shapes)


def _is_sd2(shapes: Shapes) -> bool:
    return any(layer.endswith("attn2.to_k") and shape[1] == 1024 for layer, shape in shapes.items())


def _modelspec(shapes: Shapes, is_v_prediction: bool) -> str:
    if not _is_sd2(shapes):
        return "stable-diffusion-v1"
    return "stable-diffusion-v2-768-v" if is_v_prediction else "stable-diffusion-v2-512"


def _kohya_version(shapes: Shapes, is_v_prediction: bool) -> str:
    return ("sd_v2" if _is_sd2(shapes) else "sd_v1") + ("_v" if is_v_prediction else "")


_SD1_TEXT = "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight"
_SD2_TEXT = "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight"


def _recognise(source: str, checkpoint: Checkpoint) -> Recognised | None:
    if _SD1_TEXT in checkpoint.shapes:
        unets.check_input_channels(source, checkpoint.shapes)
        return Recognised(architecture="sd15-architecture", changes={"scheduler": unets.said_of_noise(checkpoint)})
    if _SD2_TEXT not in checkpoint.shapes:
        return None
    unets.check_input_channels(source, checkpoint.shapes)
    said = unets.said_of_noise(checkpoint)
    if not said:
        raise UserError(
            f"{source}: a Stable Diffusion 2.x that does not say whether it predicts noise or v (modelspec in its "
            "header); give its diffusers folder"
        )
    sample_size = 96 if said["prediction_type"] == "v_prediction" else 64  # 768-v and 512-base
    return Recognised(
        architecture="sd21-architecture", changes={"scheduler": said, "unet": {"sample_size": sample_size}}
    )


SD = Family(
    name="sd",
    title="Stable Diffusion 1.x and 2.x",
    denoiser="unet",
    weight_files=unets.WEIGHT_FILES,
    classes=unets.CLASSES,
    tokenizers=("tokenizer",),
    pipeline="StableDiffusionPipeline",
    architectures=("sd15-architecture", "sd21-architecture"),
    released={
        "stable-diffusion-v1-5/stable-diffusion-v1-5": "sd15-architecture",
        "stabilityai/stable-diffusion-2-1": "sd21-architecture",
    },
    default_layers=unets.ATTENTION,
    claims=_claims,
    refuse=_refuse,
    read_facts=_read_facts,
    load_denoiser=unets.load_unet,
    load_vae=unets.load_kl_vae,
    load_text=clip.load_text_encoder,
    encode_prompts=_encode_prompts,
    encode_images=unets.encode_images,
    decode_latents=unets.decode_latents,
    objective=unets.ddpm_objective,
    solver=unets.dpm_solver,
    predict=_predict,
    condition_shapes=_condition_shapes,
    lora_pipeline=_lora_pipeline,
    knows_shapes=False,
    checkpoint=SingleFiles(
        recognise=_recognise,
        index=unets.INDEX | {"safety_checker": [None, None], "feature_extractor": [None, None]},
        write_tokenizer=write_clip_tokenizer,
    ),
    export=ExportNames(
        claims_layers=_is_ours,
        kohya_key=unets.kohya_key,
        modelspec=_modelspec,
        kohya_version=_kohya_version,
    ),
)
