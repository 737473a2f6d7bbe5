"""Named evaluation protocols: preprocessing x encoders x pooling x self pairs, as data. PROTOCOL.md section 3.

A score without its protocol means nothing: published DINO rows for the same photos differ by 0.07.
"""

import itertools
from dataclasses import dataclass, replace
from typing import Literal

from delora_eval.scoring.judges.networks.preprocessing import HALF, IMAGENET, OPENAI_CLIP, Preprocessing
from delora_sd.errors import UserError, nearest_name


@dataclass(frozen=True, kw_only=True)
class View:
    """An encoder and how it is shown an image."""

    encoder: str
    preprocessing: Preprocessing | None
    """none: what the encoder's own config.json says (the miniature's judges)."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Everything that decides a number besides the images and the weights."""

    name: str
    dino: View
    clip: View
    pooling: Literal["subjects", "pairs"]
    """subjects: mean of the subjects' means. pairs: all pairs of all subjects weigh the same."""
    keeps_self_pairs: bool = False
    """Real row: also pair each photo with itself (similarity 1)."""
    text_has_identifier: bool = False
    """CLIP-T's text keeps the rare token."""
    skips_black: bool = False
    """Black images are left out instead of scored as the failures they are."""
    matches_substring: bool = False
    """OFT's bug: subject `dog` also gets the images of every subject whose name ends in `dog`."""
    tells_classes: bool = False
    """Also ask CLIP which class word fits each image; no published protocol does."""
    source: str = ""


CROP = Preprocessing(
    resize="short_side", resize_px=256, crop_px=224, resample="bicubic", mean=IMAGENET[0], std=IMAGENET[1]
)
SQUASH = Preprocessing(resize="squash", resize_px=224, crop_px=224, resample="bilinear", mean=HALF[0], std=HALF[1])
SQUASH_IMAGENET = replace(SQUASH, mean=IMAGENET[0], std=IMAGENET[1])
CLIP = Preprocessing(
    resize="short_side", resize_px=224, crop_px=224, resample="bicubic", mean=OPENAI_CLIP[0], std=OPENAI_CLIP[1]
)
HUB_CLIP = replace(CLIP, resize="short_side_down")
"""CLIP's transform as the hub's processor makes it: half a pixel of an odd rest is cut on the other side."""

DINO_PREPROCESSINGS = {"crop": CROP, "squash": SQUASH, "squash_imagenet": SQUASH_IMAGENET}
CLIP_ENCODERS = {"b32": "clip/vit-b-32", "l14": "clip/vit-l-14"}

PROTOCOLS = {
    "dreambooth": Protocol(
        name="dreambooth",
        dino=View(encoder="dino/vit-s-16", preprocessing=CROP),
        clip=View(encoder="clip/vit-b-32", preprocessing=CLIP),
        pooling="subjects",
        source="DreamBooth (Ruiz et al. 2023) with the official DINO transforms",
    ),
    "oft": Protocol(
        name="oft",
        dino=View(encoder="dino/vit-s-16", preprocessing=SQUASH),
        clip=View(encoder="clip/vit-l-14", preprocessing=HUB_CLIP),
        pooling="pairs",
        skips_black=True,
        source="oft-db/eval.py (Qiu et al. 2023), the line BOFT, HRA, ETHER and DeLoRA followed",
    ),
    "miniature": Protocol(
        name="miniature",
        dino=View(encoder="mini-dino", preprocessing=None),
        clip=View(encoder="mini-clip", preprocessing=None),
        pooling="subjects",
        tells_classes=True,
        source="the bundled miniature world's own judges; comparable with nothing outside it",
    ),
}

MODIFIERS = {
    "self_pairs": {"keeps_self_pairs": True},
    "identifier": {"text_has_identifier": True},
    "substring_bug": {"matches_substring": True},
}
"""`oft+substring_bug`: a named protocol with one thing changed, and the change in its name."""

PUBLISHED_REAL_ROWS = {
    "DeLoRA, ETHER": (0.703, 0.864),
    "DreamBooth": (0.774, 0.885),
    "OFT, HRA": (0.764, 0.890),
}
"""Real Images (DINO, CLIP-I) as printed in the papers; PROTOCOL 3.4."""


def find_protocol(name: str) -> Protocol:
    """Returns the protocol of a name, such as `oft`, `oft+substring_bug` or `squash.pairs.l14`.

    Raises:
        UserError: unknown name; names the nearest.
    """
    base, *modifiers = name.split("+")
    known = PROTOCOLS | {protocol.name: protocol for protocol in combinations() if "+" not in protocol.name}
    if base not in known:
        raise UserError(f"unknown protocol '{base}'{nearest_name(base, tuple(known))}")
    protocol = known[base]
    for modifier in modifiers:
        protocol = modify(protocol, modifier)
    return protocol


def modify(protocol: Protocol, modifier: str) -> Protocol:
    """Returns the protocol with one modifier applied and named; applying it twice changes nothing."""
    if modifier not in MODIFIERS:
        raise UserError(f"unknown protocol modifier '+{modifier}'{nearest_name(modifier, tuple(MODIFIERS))}")
    if modifier in protocol.name.split("+"):
        return protocol
    return replace(protocol, name=f"{protocol.name}+{modifier}", **MODIFIERS[modifier])


def combinations() -> list[Protocol]:
    """Returns the 24 combinations a published Real Images row can have come from: `crop.subjects.b32`, ..."""
    choices = itertools.product(DINO_PREPROCESSINGS, ("subjects", "pairs"), CLIP_ENCODERS, (False, True))
    return [_combine(*choice) for choice in choices]


def _combine(preprocessing: str, pooling: str, clip: str, keeps_self_pairs: bool) -> Protocol:
    protocol = Protocol(
        name=f"{preprocessing}.{pooling}.{clip}",
        dino=View(encoder="dino/vit-s-16", preprocessing=DINO_PREPROCESSINGS[preprocessing]),
        clip=View(encoder=CLIP_ENCODERS[clip], preprocessing=CLIP),
        pooling=pooling,
        source="a combination of choices",
    )
    return modify(protocol, "self_pairs") if keeps_self_pairs else protocol


def paired_subjects(subject: str, subjects: list[str], protocol: Protocol) -> list[str]:
    """Returns whose generated images are compared with this subject's photos: its own.

    Under `matches_substring`, as oft-db/eval.py selects folders: `subject + '-' in folder`.
    """
    if not protocol.matches_substring:
        return [subject]
    return [other for other in subjects if f"{subject}-" in f"{other}-"]
