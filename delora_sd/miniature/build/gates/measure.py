"""The miniature's gates, measured: autoencoder, judges, base model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import nn

from delora_sd.miniature.build.data.dataset import PICTURES_EACH, Pictures
from delora_sd.miniature.build.train.judges import to_judge_range
from delora_sd.miniature.build.train.segmenter import TEST_SEED as SEGMENTER_TEST_SEED
from delora_sd.miniature.build.train.segmenter import measure_segmenter, render_scattered
from delora_sd.miniature.build.train.vae import psnr_db, reconstruct
from delora_sd.miniature.world.places.contexts import CONTEXTS
from delora_sd.miniature.world.render import render
from delora_sd.miniature.world.things.identity import CLASS_WORDS, typical_identity
from delora_sd.miniature.world.things.scene import place_subject

Tokenize = Callable[[list[str]], torch.Tensor]
TYPICAL_SEED = 95_000_000
NUM_SEGMENTED = 120
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
) -> tuple[dict[str, float], float]:
    """Shares of pictures whose class, by class, and whose place mini-clip picks out of all, each given the other."""
    features = image_features(clip[0], pixels)
    of_class = [[f"a {word} {CONTEXTS[place].phrase}" for word in CLASS_WORDS] for place in places]
    of_place = [[f"a {word} {context.phrase}" for context in CONTEXTS.values()] for word in classes]
    named = np.array([CLASS_WORDS[index] for index in choose(clip, features, of_class)])
    placed = np.array(list(CONTEXTS))[choose(clip, features, of_place)]
    is_right, words = named == np.array(classes), np.array(classes)
    return {word: float(is_right[words == word].mean()) for word in sorted(set(classes))}, float(
        (placed == np.array(places)).mean()
    )


def clip_gates(clip: tuple[nn.Module, Tokenize], real: Pictures) -> list[Gate]:
    """mini-clip on real pictures of unseen identities."""
    rows = [index for index, r in enumerate(real.records) if r.place and not r.finish and not r.outfit]
    records = [real.records[index] for index in rows]
    right = class_and_context_right(
        clip, real.pixels[rows], [r.class_word for r in records], [str(r.place) for r in records]
    )
    return [
        Gate(name="mini-clip, class right on real pictures", value=float(np.mean([*right[0].values()])), goal=0.97),
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
        Gate(name="autoencoder, PSNR in dB on unseen pictures", value=psnr_db(real.pixels, decoded), goal=31.0),
        Gate(name="autoencoder, coloured pixels keeping their hue", value=hue_kept(real.pixels, decoded), goal=0.9),
    ]


def base_gates(
    clip: tuple[nn.Module, Tokenize], dino: nn.Module, pixels: np.ndarray, classes: list[str], places: list[str]
) -> list[Gate]:
    """Pictures of the base model by mini-clip, and beside real pictures of the same typical looks by mini-dino.

    The kernel distance is what is left above that of a second set of real pictures: sets with equal numbers of each
    class are no independent draws, and the unbiased estimate of two real ones is below zero.
    """
    right_class, right_context = class_and_context_right(clip, pixels, classes, places)
    weakest, share = min(right_class.items(), key=lambda item: item[1])
    real = image_features(dino, typical_pictures(classes, places, seed=TYPICAL_SEED))
    again = image_features(dino, typical_pictures(classes, places, seed=TYPICAL_SEED + 1))
    drawn = image_features(dino, pixels)
    return [
        Gate(name="base model, class right", value=float(np.mean([*right_class.values()])), goal=0.98),
        Gate(name=f"base model, class right, weakest word ({weakest})", value=share, goal=0.9),
        Gate(name="base model, context right", value=right_context, goal=0.995),
        Gate(
            name="base model, cosine to real pictures of the typical look",
            value=likeness(drawn, real, classes),
            goal=0.766,
        ),
        Gate(name="real pictures of the typical look, cosine (no gate)", value=likeness(real, real, classes), goal=0),
        Gate(
            name="base model, kernel distance to real pictures",
            value=kernel_distance(drawn, real) - kernel_distance(again, real),
            goal=0.006,
            is_at_most=True,
        ),
    ]


def typical_pictures(classes: Sequence[str], places: Sequence[str], *, seed: int) -> np.ndarray:
    """Real pictures of each class in its typical look, one for each pair of class and place, uint8."""
    rng = np.random.default_rng(seed)
    identities = [typical_identity(rng, class_word=word) for word in classes]
    scenes = [place_subject(rng, one, place=place) for one, place in zip(identities, places, strict=True)]
    return np.stack([np.asarray(render(scene)) for scene in scenes])


def likeness(left: torch.Tensor, right: torch.Tensor, classes: Sequence[str]) -> float:
    """Mean cosine of unit features over pairs of one class; a picture is never paired with itself or its own twin."""
    words = np.array(classes)
    same = torch.from_numpy(words[:, None] == words[None]).fill_diagonal_(False)
    return float((left @ right.T)[same].mean())


def kernel_distance(left: torch.Tensor, right: torch.Tensor) -> float:
    """Squared maximum mean discrepancy with the kernel (x.y + 1)^3, unbiased (Binkowski et al. 2018, KID).

    On unit features; without KID's division by their number, which leaves nothing of unit vectors.
    """

    def kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x.double() @ y.double().T + 1) ** 3

    def without_diagonal(gram: torch.Tensor) -> torch.Tensor:
        return (gram.sum() - gram.diagonal().sum()) / (len(gram) * (len(gram) - 1))

    own = without_diagonal(kernel(left, left)) + without_diagonal(kernel(right, right))
    return float(own - 2 * kernel(left, right).mean())


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


def segmenter_gates(segmenter: nn.Module, vae: AutoencoderKL) -> list[Gate]:
    """mini-seg on unseen subjects that stand anywhere: its Real row, and what the autoencoder costs it."""
    real = render_scattered(SEGMENTER_TEST_SEED, NUM_SEGMENTED, held_out=True)
    decoded = reconstruct(vae, real.pixels)
    right, miou = measure_segmenter(segmenter, real.pixels, real.labels)
    decoded_right, decoded_miou = measure_segmenter(segmenter, decoded, real.labels)
    return [
        Gate(name="mini-seg, pixels right on real pictures", value=right, goal=0.93),
        Gate(name="mini-seg, mIoU on real pictures", value=miou, goal=0.8),
        Gate(name="mini-seg, pixels right on decoded pictures (no gate)", value=decoded_right, goal=0),
        Gate(name="mini-seg, mIoU on decoded pictures (no gate)", value=decoded_miou, goal=0),
    ]
