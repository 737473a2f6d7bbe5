"""Training the segmenter on scenes whose subject stands anywhere, clean and as the autoencoder makes them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from delora_sd.miniature.build.train.muon import Muon
from delora_sd.miniature.build.train.precision import computing
from delora_sd.miniature.build.train.stage import StagePlan, train_stage
from delora_sd.miniature.segmenter import SEGMENTER_CONFIG, MiniSegmenter, find_labels, new_segmenter
from delora_sd.miniature.world.places.contexts import CONTEXTS
from delora_sd.miniature.world.render import render_labelled
from delora_sd.miniature.world.things.identity import draw_identity
from delora_sd.miniature.world.things.scene import scatter_subject

TRAIN_SEED, TEST_SEED = 40_000_000, 98_000_000
DECODED_SHARE, BLURRED_SHARE = 0.5, 0.3
STUDIO_SHARE = 0.05


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """`pixels` (pictures, side, side, 3) and `labels` (pictures, side, side), both uint8."""

    pixels: np.ndarray
    labels: np.ndarray


def render_scattered(first_seed: int, count: int, *, held_out: bool) -> Labelled:
    """Pictures with their exact label maps; every one has an identity of its own."""
    pairs = []
    for seed in range(first_seed, first_seed + count):
        rng = np.random.default_rng(seed)
        place = None if rng.random() < STUDIO_SHARE else str(rng.choice(list(CONTEXTS)))
        picture, labels = render_labelled(scatter_subject(rng, draw_identity(rng, held_out=held_out), place=place))
        pairs.append((np.asarray(picture), labels))
    pixels, labels = zip(*pairs, strict=True)
    return Labelled(pixels=np.stack(pixels), labels=np.stack(labels))


def train_segmenter(
    clean: Labelled,
    decoded: np.ndarray,
    folder: Path,
    *,
    minutes: float,
    batch: int,
    device: torch.device,
    say: Callable[[str], None],
) -> MiniSegmenter:
    """Cross entropy per pixel; `decoded` are the first pictures of `clean` through the autoencoder."""
    torch.manual_seed(0)
    model = new_segmenter(SEGMENTER_CONFIG).to(device)
    optimizer = Muon([model], matrix_lr=0.02, other_lr=2e-3)

    def step(number: int, progress: float) -> dict[str, float]:
        rng = np.random.default_rng([number, 5])
        rows = rng.choice(len(clean.pixels), size=batch, replace=False)
        images, labels = _draw_views(clean, decoded, rows, rng, device)
        with computing(device):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels - 1)
        loss.backward()
        return {"loss": float(loss.detach()), "right": float((logits.argmax(1) == labels - 1).float().mean())}

    plan = StagePlan(name="mini_seg", folder=folder, minutes=minutes)
    train_stage(plan, {"model": model}, optimizer, step=step, say=say)
    return model.eval()


def _draw_views(
    clean: Labelled, decoded: np.ndarray, rows: np.ndarray, rng: np.random.Generator, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Randomly spoiled and mirrored pictures in [-1, 1] and their labels, 1 and above."""
    pixels = clean.pixels[rows]
    swapped = (rng.random(len(rows)) < DECODED_SHARE) & (rows < len(decoded))
    pixels[swapped] = decoded[rows[swapped]]
    images = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()
    labels = torch.from_numpy(clean.labels[rows]).to(device).long()
    mirrored = torch.from_numpy(rng.random(len(rows)) < 0.5).to(device)
    images[mirrored], labels[mirrored] = images[mirrored].flip(-1), labels[mirrored].flip(-1)
    blurred = torch.from_numpy(rng.random(len(rows)) < BLURRED_SHARE).to(device)
    images[blurred] = F.interpolate(F.avg_pool2d(images[blurred], 2), scale_factor=2, mode="bilinear")
    tint = torch.from_numpy(rng.normal(0, 0.06, (len(rows), 3, 1, 1)).astype(np.float32)).to(device)
    noise = torch.from_numpy(rng.standard_normal(images.shape, dtype=np.float32)).to(device)
    return images + tint + 0.03 * noise, labels


def measure_segmenter(model: nn.Module, pixels: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Share of right pixels, and the mean over labels of intersection over union, of labels that occur."""
    parts = [find_labels(model, torch.from_numpy(pixels[start : start + 50])) for start in range(0, len(pixels), 50)]
    found = torch.cat(parts).cpu().numpy()
    known = np.unique(np.concatenate([labels.ravel(), found.ravel()]))
    shares = [((found == k) & (labels == k)).sum() / ((found == k) | (labels == k)).sum() for k in known]
    return float((found == labels).mean()), float(np.mean(shares))
