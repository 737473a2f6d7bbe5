"""The miniature's UNet and text encoder, trained together to predict noise, and their export as a pipeline folder."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTokenizer

from delora_sd.miniature.build.data.dataset import Pictures
from delora_sd.miniature.build.train.muon import Muon
from delora_sd.miniature.build.train.precision import computing
from delora_sd.miniature.build.train.stage import StagePlan, train_stage
from delora_sd.miniature.build.train.vae import encode_latents
from delora_sd.miniature.build.train.weights import update_average, write_pipeline
from delora_sd.miniature.text import (
    MAX_TOKENS,
    TEXT_WIDTH,
    new_text_encoder,
    new_tokenizer,
    settle_identifiers,
    token_ids,
)

BLOCK_CHANNELS = (128, 160)
SNR_CAP = 5.0  # min-SNR weighting, Hang et al. 2023, eq. 5
CAPTION_DROP = 0.1  # teaches the empty caption that classifier-free guidance needs


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """Scaled latents (pictures, channels, 8, 8) and token ids (pictures, captions, 24)."""

    latents: torch.Tensor
    tokens: torch.Tensor


def training_set(pictures: Pictures, vae: AutoencoderKL) -> TrainingSet:
    """Pictures encoded once, captions tokenised once."""
    latents = (encode_latents(vae, pictures.pixels) * vae.config.scaling_factor).half()
    captions = [caption for record in pictures.records for caption in record.captions]
    tokens = token_ids(new_tokenizer(), captions).view(len(latents), -1, MAX_TOKENS).short()
    return TrainingSet(latents=latents, tokens=tokens)


def new_unet(latent_channels: int, latent_side: int) -> UNet2DConditionModel:
    """An untrained UNet: cross-attention at 8x8 and 4x4, 56 attention projections for adapters to change."""
    return UNet2DConditionModel(
        sample_size=latent_side,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=BLOCK_CHANNELS,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        attention_head_dim=4,  # diffusers reads this as the number of heads, as in SD 1.5
        norm_num_groups=16,
        cross_attention_dim=TEXT_WIDTH,
    )


def new_scheduler() -> DDPMScheduler:
    """The noise schedule of SD 1.5."""
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="epsilon",
        steps_offset=1,
    )


def new_denoiser(vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> nn.ModuleDict:
    """The two modules that learn together, under the names a pipeline gives them."""
    torch.manual_seed(0)
    side = vae.config.sample_size // 2 ** (len(vae.config.block_out_channels) - 1)
    unet = new_unet(vae.config.latent_channels, side)
    # The backward pass of PyTorch's fused attention is several times slower than plain matmuls on a CPU.
    unet.set_attn_processor(AttnProcessor())
    text_encoder = new_text_encoder(tokenizer)
    text_encoder.set_attn_implementation("eager")
    return nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})


def train_unet(
    data: TrainingSet,
    vae: AutoencoderKL,
    folder: Path,
    *,
    start: dict[str, torch.Tensor] | None,
    minutes: float,
    batch: int,
    device: torch.device,
    say: Callable[[str], None],
) -> None:
    """Trains until the budget is spent; the result is the checkpoint's averaged weights.

    From `start` (weights as `weights.averaged_weights` gives them) at half the rate, else from nothing.
    """
    tokenizer = new_tokenizer()
    model = new_denoiser(vae, tokenizer)
    if start is not None:
        model.load_state_dict(start)
    model.to(device, memory_format=torch.channels_last)
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = Muon([model], matrix_lr=0.02 if start is None else 0.01, other_lr=1e-3)
    plan = StagePlan(name="unet", folder=folder, minutes=minutes)
    scheduler = new_scheduler()
    signal = scheduler.alphas_cumprod.to(device)
    empty = token_ids(tokenizer, [""])[0]

    def step(number: int, progress: float) -> dict[str, float]:
        rng = torch.Generator().manual_seed(number)
        update_average(average, model, number)
        rows = torch.randint(len(data.latents), (batch,), generator=rng)
        tokens = data.tokens[rows, torch.randint(data.tokens.shape[1], (batch,), generator=rng)].long()
        tokens[torch.rand(batch, generator=rng) < CAPTION_DROP] = empty
        clean = data.latents[rows].float().to(device)
        noise = torch.randn(clean.shape, generator=rng).to(device)
        timesteps = torch.randint(len(signal), (batch,), generator=rng).to(device)
        noisy = scheduler.add_noise(clean, noise, timesteps)
        with computing(device):
            context = model["text_encoder"](tokens.to(device))[0]
            guess = model["unet"](noisy.contiguous(memory_format=torch.channels_last), timesteps, context).sample
        error = (guess.float() - noise).square().mean(dim=(1, 2, 3))
        snr = signal[timesteps] / (1 - signal[timesteps])
        loss = (error * snr.clamp(max=SNR_CAP) / snr).mean()
        loss.backward()
        return {"loss": float(loss.detach()), "eps": float(error.detach().mean())}

    train_stage(plan, {"model": model, "average": average}, optimizer, step=step, say=say)


def exported_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights `{unet.*, text_encoder.*}` of an exported pipeline folder, fp32."""
    parts = {"unet": "diffusion_pytorch_model.safetensors", "text_encoder": "model.safetensors"}
    weights = {
        f"{part}.{name}": value
        for part, file in parts.items()
        for name, value in load_file(folder / part / file).items()
    }
    return {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}


def export_pipeline(vae: AutoencoderKL, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Writes a StableDiffusionPipeline folder in fp16 from averaged weights `{unet.*, text_encoder.*}`."""
    tokenizer = new_tokenizer()
    model = new_denoiser(vae, tokenizer)
    model.load_state_dict(weights)
    settle_identifiers(model["text_encoder"], tokenizer)
    pipeline = StableDiffusionPipeline(
        vae=copy.deepcopy(vae),
        text_encoder=model["text_encoder"],
        tokenizer=tokenizer,
        unet=model["unet"],
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    write_pipeline(pipeline, folder)


def sample(
    pipeline: StableDiffusionPipeline, prompts: list[str], *, seed: int, steps: int = 20, guidance: float = 4.0
) -> np.ndarray:
    """One picture per prompt, uint8 (prompts, side, side, 3); picture k depends on seed + k alone."""
    parts = []
    for start in range(0, len(prompts), 50):
        some = prompts[start : start + 50]
        generators = [torch.Generator().manual_seed(seed + start + index) for index in range(len(some))]
        out = pipeline(some, num_inference_steps=steps, guidance_scale=guidance, generator=generators, output_type="np")
        parts.append((out.images * 255).round().astype(np.uint8))
    return np.concatenate(parts)
