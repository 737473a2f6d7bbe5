"""What the families with a UNet share: its facts and the members nobody can train, its VAE, its loss, its solver."""

from typing import Any

import torch
from torch import Tensor, nn

from delora_sd.diffusion.families.family import Base, Checkpoint, Shapes
from delora_sd.diffusion.loading import load_diffusers_part
from delora_sd.diffusion.noise.objective import Ddpm
from delora_sd.diffusion.noise.solver import DpmSolver
from delora_sd.errors import UserError
from delora_sd.settings import TrainingConfig

WEIGHT_FILES = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
"""Stem of each part's weight file in a diffusers folder."""


CLASSES = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""The projections of every attention."""


INDEX = {
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
"""Of a pipeline: {part: [library, class]}."""

FIRST_LAYER = "model.diffusion_model.input_blocks.0.0.weight"
"""Of a UNet in a single-file checkpoint."""


def check_input_channels(source: str, shapes: Shapes) -> None:
    """Raises UserError for a single file whose UNet takes something beside the latents, or that has none."""
    channels = shapes.get(FIRST_LAYER, (0, 0))[1]
    if channels != 4:
        raise UserError(
            f"{source}: its UNet takes {channels} channels, expected 4; inpainting and other special models are not "
            "supported"
        )


def said_of_noise(checkpoint: Checkpoint) -> dict[str, Any]:
    """Returns what a single file says of its noise: kohya's marks for v-prediction and zero SNR, or ModelSpec."""
    said = checkpoint.metadata.get("modelspec.prediction_type", "")
    if "v_pred" in checkpoint.shapes:
        zero_snr = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        return {"prediction_type": "v_prediction"} | (zero_snr if "ztsnr" in checkpoint.shapes else {})
    return {"prediction_type": {"v": "v_prediction"}.get(said, said)} if said in ("v", "epsilon") else {}


def check_unet(source: str, unet: dict, vae: dict) -> None:
    """Raises UserError for a UNet that does something else than predict the noise in latents from a prompt."""
    latent_channels = vae.get("latent_channels", 4)
    if unet.get("in_channels") != latent_channels:
        raise UserError(
            f"{source}: the UNet takes {unet.get('in_channels')} channels, the VAE gives {latent_channels}; "
            "inpainting and other special models are not supported"
        )
    if unet.get("out_channels", latent_channels) != latent_channels:
        raise UserError(
            f"{source}: the UNet gives {unet['out_channels']} channels for {latent_channels}; "
            "models that also learn their variance are not supported"
        )
    if unet.get("time_cond_proj_dim") is not None:
        raise UserError(
            f"{source}: its UNet takes the guidance scale as an input (distilled, LCM); use the model it was "
            "distilled from"
        )


def vae_factor(vae: dict) -> int:
    """Pixels per latent on one side: every block but the last halves."""
    return 2 ** (len(vae["block_out_channels"]) - 1)


def smallest_px(unet: dict, vae: dict) -> int:
    """Side of the smallest image that survives the halvings of VAE and UNet."""
    return vae_factor(vae) * 2 ** (len(unet["block_out_channels"]) - 1)


def load_unet(base: Base, *, device: torch.device | str, dtype: torch.dtype) -> nn.Module:
    from diffusers import UNet2DConditionModel

    return load_diffusers_part(UNet2DConditionModel, base, "unet", device=device, dtype=dtype)


def load_kl_vae(base: Base, *, device: torch.device | str, dtype: torch.dtype) -> nn.Module:
    from diffusers import AutoencoderKL

    return load_diffusers_part(AutoencoderKL, base, "vae", device=device, dtype=dtype)


def encode_images(images: Tensor, vae: nn.Module) -> tuple[Tensor, Tensor]:
    """Returns mean and deviation of the posterior, times `vae.config.scaling_factor`: the UNet's own scale."""
    posterior = vae.encode(images).latent_dist
    scale = vae.config.scaling_factor
    return posterior.mean.float() * scale, posterior.std.float() * scale


def decode_latents(latents: Tensor, vae: nn.Module) -> Tensor:
    return vae.decode(latents / vae.config.scaling_factor).sample


def ddpm_objective(base: Base, training: TrainingConfig, device: torch.device) -> Ddpm:
    from diffusers import DDPMScheduler

    alphas = DDPMScheduler(**base.schedule.for_diffusers()).alphas_cumprod
    return Ddpm(alphas_cumprod=alphas.to(device), prediction_type=base.schedule.prediction_type)


def dpm_solver(base: Base, num_steps: int, *, device: torch.device | str = "cpu") -> DpmSolver:
    return DpmSolver(base.schedule, num_steps, device=device)


def kohya_key(layer: str) -> str:
    return "lora_unet_" + layer.replace(".", "_")


UNET_NAMES = ("down_blocks.", "mid_block.", "up_blocks.", "conv_in", "conv_norm_out", "conv_out", "time_embedding")
"""What the layers of a UNet begin with, and no transformer's."""


def has_unet_names(shapes: Shapes) -> bool:
    return any(layer.startswith(UNET_NAMES) for layer in shapes)


def has_deep_blocks(shapes: Shapes) -> bool:
    """True where one attention block holds several transformer layers: SDXL has up to ten, 1.x and 2.x one."""
    return any(".transformer_blocks.1." in layer for layer in shapes)
