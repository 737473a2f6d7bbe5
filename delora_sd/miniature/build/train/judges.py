"""Training the judges on clean, blurred, tinted and VAE-decoded views, so that generated pictures are judged fairly."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from delora_sd.miniature.build.data.dataset import PICTURES_EACH, Pictures
from delora_sd.miniature.build.train.muon import Muon
from delora_sd.miniature.build.train.precision import computing
from delora_sd.miniature.build.train.stage import StagePlan, train_stage
from delora_sd.miniature.judges import DINO_CONFIG, MEAN, STD, clip_config, new_mini_clip, new_mini_dino
from delora_sd.miniature.text import new_tokenizer, token_ids

DECODED_SHARE, BLURRED_SHARE = 0.4, 0.25
DINO_TEMPERATURE = 0.1


@dataclass(frozen=True, kw_only=True)
class Views:
    """Clean pixels of all pictures and, for the first `len(decoded)` of them, the autoencoder's version."""

    pictures: Pictures
    decoded: np.ndarray

    def draw(self, rows: np.ndarray, rng: np.random.Generator, device: torch.device) -> torch.Tensor:
        """One randomly spoiled view per row, normalised for a judge, (rows, 3, side, side)."""
        pixels = self.pictures.pixels[rows]
        swapped = (rng.random(len(rows)) < DECODED_SHARE) & (rows < len(self.decoded))
        pixels[swapped] = self.decoded[rows[swapped]]
        images = to_judge_range(pixels, device)
        blurred = torch.from_numpy(rng.random(len(rows)) < BLURRED_SHARE).to(device)
        images[blurred] = F.interpolate(F.avg_pool2d(images[blurred], 2), scale_factor=2, mode="bilinear")
        tint = torch.from_numpy(rng.normal(0, 0.03, (len(rows), 3, 1, 1)).astype(np.float32)).to(device)
        return images + tint + 0.02 * torch.from_numpy(rng.standard_normal(images.shape, dtype=np.float32)).to(device)


def to_judge_range(pixels: np.ndarray, device: torch.device) -> torch.Tensor:
    """(batch, side, side, 3) uint8 to the judges' normalised (batch, 3, side, side)."""
    images = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float().div(255).contiguous()
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))
    return (images - mean) / std


def train_mini_dino(
    views: Views, folder: Path, *, minutes: float, batch: int, device: torch.device, say: Callable[[str], None]
) -> nn.Module:
    """Identity-contrastive features: two pictures of one subject agree, those of its lookalike do not."""
    torch.manual_seed(0)
    model = new_mini_dino(DINO_CONFIG).to(device)
    optimizer = Muon([model], matrix_lr=0.02, other_lr=1e-3)
    _, identities = np.unique([record.identity for record in views.pictures.records], return_inverse=True)
    pairs = len(views.pictures.records) // (2 * PICTURES_EACH)  # group 2k+1 is the hard negative of group 2k

    def step(number: int, progress: float) -> dict[str, float]:
        rng = np.random.default_rng([number, 2])
        pair = rng.choice(pairs, size=batch // 4, replace=False)
        groups = np.concatenate([2 * pair, 2 * pair + 1])
        first, second = (rng.permuted(np.tile(np.arange(PICTURES_EACH), (len(groups), 1)), axis=1)[:, :2]).T
        rows = np.concatenate([groups * PICTURES_EACH + first, groups * PICTURES_EACH + second])
        with computing(device):
            features = model(views.draw(rows, rng, device))
        features = F.normalize(features.float(), dim=-1)
        likeness = features @ features.T / DINO_TEMPERATURE
        partner = torch.arange(len(rows), device=device).roll(len(groups))
        same = torch.from_numpy(identities[rows][:, None] == identities[rows][None]).to(device)
        same[torch.arange(len(rows)), partner] = False  # other pictures of the subject are neither right nor wrong
        likeness = likeness.masked_fill(same, -torch.inf)
        loss = F.cross_entropy(likeness, partner)
        loss.backward()
        return {"loss": float(loss.detach()), "found": float((likeness.argmax(1) == partner).float().mean())}

    plan = StagePlan(name="mini_dino", folder=folder, minutes=minutes)
    with sdpa_kernel(_attention_kernel(device)):
        train_stage(plan, {"model": model}, optimizer, step=step, say=say)
    return model.eval()


def train_mini_clip(
    views: Views, folder: Path, *, minutes: float, batch: int, device: torch.device, say: Callable[[str], None]
) -> nn.Module:
    """Caption-contrastive image and text towers; equal captions in a batch count as equally right."""
    torch.manual_seed(0)
    model = new_mini_clip(clip_config()).to(device)
    tokenizer = new_tokenizer()
    records = views.pictures.records
    tokens = token_ids(tokenizer, [caption for record in records for caption in (record.plain, *record.captions)])
    tokens = tokens.view(len(records), -1, tokens.shape[1])
    optimizer = Muon([model], matrix_lr=0.02, other_lr=1e-3)

    def step(number: int, progress: float) -> dict[str, float]:
        rng = np.random.default_rng([number, 3])
        rows = rng.choice(len(records), size=batch, replace=False)
        texts = tokens[torch.from_numpy(rows), torch.from_numpy(rng.integers(tokens.shape[1], size=batch))].to(device)
        with computing(device):
            seen, read = model.encode_image(views.draw(rows, rng, device)), model.encode_text(texts)
        seen, read = F.normalize(seen.float(), dim=-1), F.normalize(read.float(), dim=-1)
        logits = seen @ read.T * model.logit_scale.exp().clamp(max=50)
        same = (texts[:, None] == texts[None]).all(-1).float()
        goal = same / same.sum(1, keepdim=True)
        loss = (F.cross_entropy(logits, goal) + F.cross_entropy(logits.T, goal)) / 2
        loss.backward()
        right = same.gather(1, logits.argmax(1, keepdim=True)).mean()
        return {"loss": float(loss.detach()), "right": float(right)}

    plan = StagePlan(name="mini_clip", folder=folder, minutes=minutes)
    with sdpa_kernel(_attention_kernel(device)):
        train_stage(plan, {"model": model}, optimizer, step=step, say=say)
    return model.eval()


def _attention_kernel(device: torch.device) -> list[SDPBackend]:
    """Plain matmuls on a CPU, where the fused kernel's backward pass takes most of a step."""
    if device.type == "cpu":
        return [SDPBackend.MATH]
    return [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
