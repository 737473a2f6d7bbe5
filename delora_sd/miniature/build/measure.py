"""The miniature's gates, measured: autoencoder, judges, base model."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import nn

from delora_sd.miniature.build.dataset import PICTURES_EACH, Pictures
from delora_sd.miniature.build.train_judges import to_judge_range
from delora_sd.miniature.build.train_vae import psnr_db, reconstruct
from delora_sd.miniature.world.places.contexts import CONTEXTS
from delora_sd.miniature.world.things.identity import CLASS_WORDS

Tokenize = Callable[[list[str]], torch.Tensor]
HUE_MARGIN = 0.3  # saturation above which a pixel has a hue worth keeping


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One figure of the card with the value it must reach."""

    name: str
    value: float
    goal: float
    is_at_most: bool = False

    @property
    def is_reached(self) -> bool:
        return self.value <= self.goal if self.is_at_most else self.value >= self.goal


@torch.no_grad()
def image_features(judge: nn.Module, pixels: np.ndarray) -> torch.Tensor:
    """Unit features (pictures, dim) of uint8 pictures by mini-dino or mini-clip's image tower."""
    see = judge.encode_image if isinstance(getattr(judge, "visual", None), nn.Module) else judge
    device = next(judge.parameters()).device
    parts = [see(to_judge_range(pixels[start : start + 100], device)).cpu() for start in range(0, len(pixels), 100)]
    return F.normalize(torch.cat(parts).float(), dim=-1)


@torch.no_grad()
def choose(clip: tuple[nn.Module, Tokenize], features: torch.Tensor, texts: list[list[str]]) -> np.ndarray:
    """For each picture the index of the text nearest to it among its own candidates."""
    model, tokenize = clip
    unique = sorted({text for row in texts for text in row})
    device = next(model.parameters()).device
    table = F.normalize(model.encode_text(tokenize(unique).to(device)).float().cpu(), dim=-1)
    place = {text: index for index, text in enumerate(unique)}
    rows = torch.tensor([[place[text] for text in row] for row in texts])
    return torch.einsum("nd,nkd->nk", features, table[rows]).argmax(1).numpy()


def class_and_context_right(
    clip: tuple[nn.Module, Tokenize], pixels: np.ndarray, classes: list[str], places: list[str]
) -> tuple[float, float]:
    """Shares of pictures whose class, and whose place, mini-clip picks out of all, each given the other."""
    features = image_features(clip[0], pixels)
    of_class = [[f"a {word} {CONTEXTS[place].phrase}" for word in CLASS_WORDS] for place in places]
    of_place = [[f"a {word} {context.phrase}" for context in CONTEXTS.values()] for word in classes]
    named = np.array([CLASS_WORDS[index] for index in choose(clip, features, of_class)])
    placed = np.array(list(CONTEXTS))[choose(clip, features, of_place)]
    return float((named == np.array(classes)).mean()), float((placed == np.array(places)).mean())


def clip_gates(clip: tuple[nn.Module, Tokenize], real: Pictures) -> list[Gate]:
    """mini-clip on real pictures of unseen identities."""
    rows = [index for index, r in enumerate(real.records) if r.place and not r.finish and not r.outfit]
    records = [real.records[index] for index in rows]
    right = class_and_context_right(
        clip, real.pixels[rows], [r.class_word for r in records], [str(r.place) for r in records]
    )
    return [
        Gate(name="mini-clip, class right on real pictures", value=right[0], goal=0.97),
        Gate(name="mini-clip, context right on real pictures", value=right[1], goal=0.97),
    ]


def dino_gates(dino: nn.Module, vae: AutoencoderKL, real: Pictures) -> list[Gate]:
    """mini-dino on unseen identities: nearest neighbour, and what the autoencoder costs a score.

    Every odd group is the lookalike of the one before (same class and main colour). The gate is among the even groups,
    drawn independently; the search with every lookalike present is harder than the gate asks and is told beside it.
    """
    seen, decoded = image_features(dino, real.pixels), image_features(dino, reconstruct(vae, real.pixels))
    owner = torch.arange(len(seen)) // PICTURES_EACH
    likeness = (seen @ seen.T).fill_diagonal_(-1)
    same = (owner[:, None] == owner[None]) & ~torch.eye(len(seen), dtype=torch.bool)
    real_score = float(likeness[same].mean())
    decoded_score = float((decoded @ seen.T)[same].mean())
    lookalike_score = float(likeness[owner[None] == (owner ^ 1)[:, None]].mean())
    difference = abs(real_score - decoded_score)
    return [
        Gate(name="mini-dino, unseen identity found", value=share_found(likeness, owner, owner % 2 == 0), goal=0.95),
        Gate(name="mini-dino, real against decoded, difference", value=difference, goal=0.05, is_at_most=True),
        Gate(
            name="mini-dino, found beside its lookalike (no gate)",
            value=share_found(likeness, owner, owner >= 0),
            goal=0,
        ),
        Gate(name="mini-dino, same subject (no gate)", value=real_score, goal=0),
        Gate(name="mini-dino, lookalike (no gate)", value=lookalike_score, goal=0),
    ]


def share_found(likeness: torch.Tensor, owner: torch.Tensor, among: torch.Tensor) -> float:
    """Share of the pictures `among` whose nearest other picture there shows the same subject."""
    nearest = likeness[among][:, among].argmax(1)
    return float((owner[among][nearest] == owner[among]).float().mean())


def vae_gates(vae: AutoencoderKL, real: Pictures) -> list[Gate]:
    """Reconstruction of unseen pictures: PSNR, and coloured pixels whose hue moves less than 15 degrees."""
    decoded = reconstruct(vae, real.pixels)
    return [
        Gate(name="autoencoder, PSNR in dB on unseen pictures", value=psnr_db(real.pixels, decoded), goal=28.0),
        Gate(name="autoencoder, coloured pixels keeping their hue", value=hue_kept(real.pixels, decoded), goal=0.9),
    ]


def base_gates(
    clip: tuple[nn.Module, Tokenize], pixels: np.ndarray, classes: list[str], places: list[str]
) -> list[Gate]:
    """Pictures of the base model by mini-clip."""
    right = class_and_context_right(clip, pixels, classes, places)
    return [
        Gate(name="base model, class right", value=right[0], goal=0.85),
        Gate(name="base model, context right", value=right[1], goal=0.9),
    ]


def hue_kept(pixels: np.ndarray, decoded: np.ndarray) -> float:
    """Share of clearly coloured pixels whose hue moved by less than 15 degrees."""
    before, saturation = _hue(pixels)
    after, _ = _hue(decoded)
    turn = np.abs((before - after + 180) % 360 - 180)
    return float((turn[saturation > HUE_MARGIN] < 15).mean())


def _hue(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hue in degrees and saturation 0 to 1."""
    red, green, blue = (pixels[..., channel].astype(np.float32) for channel in range(3))
    hue = np.degrees(np.arctan2(np.sqrt(3.0) * (green - blue), 2 * red - green - blue))
    high, low = pixels.max(-1).astype(np.float32), pixels.min(-1).astype(np.float32)
    return hue, (high - low) / np.maximum(high, 1)
