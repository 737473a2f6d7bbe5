"""The miniature's AutoencoderKL: factor 8 as in SD 1.5, few channels at full resolution where the time goes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from delora_sd.miniature.build.data.dataset import Pictures
from delora_sd.miniature.build.train.muon import Muon
from delora_sd.miniature.build.train.precision import computing
from delora_sd.miniature.build.train.stage import StagePlan, train_stage
from delora_sd.miniature.world.render import SIZE_PX

BLOCK_CHANNELS = (16, 32, 64, 128)
LATENT_CHANNELS = 24  # 24 numbers for 8x8 pixels; 16 would need 5 dB more than PCA gives to reach 28 dB
KL_WEIGHT = 3e-5
L1_WEIGHT = 0.05


def new_vae() -> AutoencoderKL:
    """An untrained autoencoder, latents (batch, 24, 8, 8)."""
    depth = len(BLOCK_CHANNELS)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * depth,
        up_block_types=("UpDecoderBlock2D",) * depth,
        block_out_channels=BLOCK_CHANNELS,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=SIZE_PX,
        mid_block_add_attention=False,
    )


def to_model_range(pixels: np.ndarray, device: torch.device) -> torch.Tensor:
    """(batch, side, side, 3) uint8 to (batch, 3, side, side) in -1 to 1."""
    return torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


def train_vae(
    pictures: Pictures, folder: Path, *, minutes: float, batch: int, device: torch.device, say: Callable[[str], None]
) -> AutoencoderKL:
    """A trained autoencoder with its scaling factor set to one over the latents' standard deviation."""
    torch.manual_seed(0)
    vae = new_vae().to(device)
    optimizer = Muon([vae], matrix_lr=0.02, other_lr=2e-3)
    plan = StagePlan(name="vae", folder=folder, minutes=minutes)

    def step(number: int, progress: float) -> dict[str, float]:
        rows = np.random.default_rng([number, 1]).integers(len(pictures.pixels), size=batch)
        images = to_model_range(pictures.pixels[rows], device)
        with computing(device):
            posterior = vae.encode(images).latent_dist
            decoded = vae.decode(posterior.sample()).sample
        error = decoded.float() - images
        mse = error.square().mean()
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        (mse + L1_WEIGHT * error.abs().mean() + KL_WEIGHT * kl).backward()
        return {"psnr": 10 * float(torch.log10(4 / mse.detach())), "kl": float(kl.detach())}

    train_stage(plan, {"vae": vae}, optimizer, step=step, say=say)
    vae.eval()
    latents = encode_latents(vae, pictures.pixels[:: max(1, len(pictures.pixels) // 1000)])
    vae.register_to_config(scaling_factor=1.0 / float(latents.std()))
    return vae


def refine_decoder(
    vae: AutoencoderKL,
    pictures: Pictures,
    folder: Path,
    *,
    minutes: float,
    batch: int,
    device: torch.device,
    say: Callable[[str], None],
) -> None:
    """Trains the decoder alone on the encoder's means: better pictures while the latents stay what they are."""
    decoder = torch.nn.ModuleDict({"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv})
    latents = encode_latents(vae, pictures.pixels)
    optimizer = Muon([decoder], matrix_lr=0.01, other_lr=1e-3)

    def step(number: int, progress: float) -> dict[str, float]:
        rows = np.random.default_rng([number, 4]).integers(len(latents), size=batch)
        images = to_model_range(pictures.pixels[rows], device)
        with computing(device):
            decoded = vae.decode(latents[rows].to(device)).sample
        mse = (decoded.float() - images).square().mean()
        mse.backward()
        return {"psnr": 10 * float(torch.log10(4 / mse.detach()))}

    train_stage(
        StagePlan(name="decoder", folder=folder, minutes=minutes), {"decoder": decoder}, optimizer, step=step, say=say
    )
    vae.eval()


@torch.no_grad()
def encode_latents(vae: AutoencoderKL, pixels: np.ndarray, *, batch: int = 128) -> torch.Tensor:
    """Posterior means (pictures, channels, 8, 8), not scaled, as float32 on the CPU."""
    device = next(vae.parameters()).device
    parts = []
    for start in range(0, len(pixels), batch):
        with computing(device):
            parts.append(
                vae.encode(to_model_range(pixels[start : start + batch], device)).latent_dist.mode().float().cpu()
            )
    return torch.cat(parts)


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, pixels: np.ndarray, *, batch: int = 64) -> np.ndarray:
    """Pictures through the autoencoder and back, uint8."""
    parts = []
    for start in range(0, len(pixels), batch):
        images = to_model_range(pixels[start : start + batch], next(vae.parameters()).device)
        decoded = vae.decode(vae.encode(images).latent_dist.mode()).sample
        parts.append(decoded.add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(parts)


def psnr_db(pixels: np.ndarray, decoded: np.ndarray) -> float:
    """Peak signal-to-noise ratio over all pictures."""
    mse = F.mse_loss(torch.from_numpy(decoded).float(), torch.from_numpy(pixels).float())
    return 10 * float(torch.log10(255**2 / mse))
