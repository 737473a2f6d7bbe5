"""Captions in the benchmark's grammar, and every word the text encoder knows. Identifiers never appear."""

import numpy as np

from delora_sd.miniature.world.paint.palette import COLOURS
from delora_sd.miniature.world.places.contexts import CONTEXTS
from delora_sd.miniature.world.things.identity import CLASS_WORDS
from delora_sd.miniature.world.things.outfits import OUTFITS
from delora_sd.miniature.world.things.scene import FINISHES, Scene

# Pretraining sometimes puts one of these before the class word, so that a strange word there does no harm ...
STRANGE_WORDS = ("zwx", "olis", "pll", "ktn", "ucc", "dorp", "mtn", "vrk", "gsh", "blib", "cjf", "xph")
# ... and never one of these: they wait to name a subject.
IDENTIFIERS = ("qwe", "sks", "ohwx", "hta", "xjy", "vbk", "tpz", "nqr")
STRANGE_SHARE = 0.15
PHOTO_SHARE = 0.35


def caption_of(scene: Scene, rng: np.random.Generator) -> str:
    """A caption of the scene: place, outfit and finish are always told, the colour unless it is the usual one."""
    words = [scene.finish] if scene.finish else []
    if not scene.identity.is_typical:
        words.append(scene.identity.main)
    if rng.random() < STRANGE_SHARE:
        words.append(str(rng.choice(STRANGE_WORDS)))
    prefix = "a photo of a" if rng.random() < PHOTO_SHARE else "a"
    return describe(f"{prefix} {' '.join([*words, scene.identity.class_word])}", scene)


def describe(noun: str, scene: Scene) -> str:
    """The noun phrase followed by the scene's outfit and place."""
    outfit = OUTFITS[scene.outfit][0] if scene.outfit else ""
    return " ".join(part for part in (noun, outfit, scene.context.phrase) if part)


def plain_caption(scene: Scene) -> str:
    """The caption of a scene without colour or strange words: what a judge is asked."""
    return describe(f"a {scene.finish + ' ' if scene.finish else ''}{scene.identity.class_word}", scene)


def vocabulary() -> list[str]:
    """Every whole word of a caption or benchmark prompt, sorted, with the strange words and identifiers."""
    phrases = [context.phrase for context in CONTEXTS.values()] + [phrase for phrase, _ in OUTFITS.values()]
    phrases += [*CLASS_WORDS, *COLOURS, *FINISHES, "a photo of a", "an image"]
    words = {word for phrase in phrases for word in phrase.lower().split()}
    return sorted(words | set(STRANGE_WORDS) | set(IDENTIFIERS))
