"""Who a subject is: colours, pattern, proportions and accessory, and which identities pretraining never sees."""

import hashlib
from dataclasses import dataclass

import numpy as np

from delora_sd.miniature.world.paint.palette import COLOURS

LIVE_CLASSES = ("dog", "cat")
CLASS_WORDS = (
    "backpack", "stuffed animal", "bowl", "can", "candle", "cat", "clock", "sneaker",
    "dog", "toy", "boot", "glasses", "cartoon", "teapot", "vase",
)  # fmt: skip
PATTERNS = ("plain", "stripes", "dots", "halves", "band", "patches")
PATTERN_ODDS = (0.5, 0.1, 0.1, 0.1, 0.1, 0.1)
# Few second and accent colours: the base model then has less to guess, and draws cleaner subjects for its budget.
SECOND_COLOURS = ("white", "black", "brown", "yellow")
ACCENT_COLOURS = ("red", "blue", "green", "yellow", "pink")
VARIANTS = 3  # each proportion and the accessory take this many values
# How a class looks when nobody names its colour: main, second and accent colour, without pattern. As in the real
# world, "a dog" has a likely look; a base model of this budget draws that cleanly and leaves the rest to colour words.
TYPICAL_COLOURS = {
    "backpack": ("blue", "yellow", "red"),
    "stuffed animal": ("brown", "yellow", "red"),
    "bowl": ("turquoise", "white", "red"),
    "can": ("red", "white", "yellow"),
    "candle": ("white", "yellow", "blue"),
    "cat": ("orange", "white", "green"),
    "clock": ("red", "black", "yellow"),
    "sneaker": ("blue", "white", "red"),
    "dog": ("brown", "black", "red"),
    "toy": ("yellow", "white", "red"),
    "boot": ("brown", "black", "yellow"),
    "glasses": ("black", "white", "red"),
    "cartoon": ("green", "yellow", "red"),
    "teapot": ("white", "yellow", "blue"),
    "vase": ("purple", "white", "pink"),
}
HELD_OUT_SHARE = 10  # one identity in this many is kept from pretraining


@dataclass(frozen=True, kw_only=True)
class Identity:
    """One subject of the world; two pictures show the same subject exactly when these fields agree."""

    class_word: str
    main: str
    second: str
    accent: str
    pattern: str
    width: int
    height: int
    extra: int

    @property
    def key(self) -> str:
        """All identity parameters in one line; the split hashes it."""
        names = (self.class_word, self.main, self.second, self.accent, self.pattern)
        return "/".join((*names, str(self.width), str(self.height), str(self.extra)))

    @property
    def is_typical(self) -> bool:
        """Whether this is the look its class has by default."""
        colours = (self.main, self.second, self.accent)
        return colours == TYPICAL_COLOURS[self.class_word] and self.pattern == "plain"

    @property
    def is_held_out(self) -> bool:
        """Whether pretraining never sees this identity: a fixed hash decides, not a list."""
        return int(hashlib.sha256(self.key.encode()).hexdigest()[:8], 16) % HELD_OUT_SHARE == 0


def draw_identity(
    rng: np.random.Generator, *, held_out: bool, class_word: str | None = None, main: str | None = None
) -> Identity:
    """A random identity of the asked side of the split."""
    while True:
        colour = main or str(rng.choice(list(COLOURS)))
        second, accent = str(rng.choice(SECOND_COLOURS)), str(rng.choice(ACCENT_COLOURS))
        if len({colour, second, accent}) < 3:
            continue
        drawn = Identity(
            class_word=class_word or str(rng.choice(CLASS_WORDS)),
            main=colour,
            second=second,
            accent=accent,
            pattern=str(rng.choice(PATTERNS, p=PATTERN_ODDS)),
            width=int(rng.integers(VARIANTS)),
            height=int(rng.integers(VARIANTS)),
            extra=int(rng.integers(VARIANTS)),
        )
        if drawn.is_held_out == held_out and not drawn.is_typical:
            return drawn


def typical_identity(rng: np.random.Generator, *, class_word: str | None = None) -> Identity:
    """A class, random unless named, in its default look, on pretraining's side of the split."""
    while True:
        word = class_word or str(rng.choice(CLASS_WORDS))
        main, second, accent = TYPICAL_COLOURS[word]
        drawn = Identity(
            class_word=word,
            main=main,
            second=second,
            accent=accent,
            pattern="plain",
            width=int(rng.integers(VARIANTS)),
            height=int(rng.integers(VARIANTS)),
            extra=int(rng.integers(VARIANTS)),
        )
        if not drawn.is_held_out:
            return drawn


def hard_negative(rng: np.random.Generator, identity: Identity, *, held_out: bool) -> Identity:
    """Another identity of the same class and main colour."""
    while True:
        other = draw_identity(rng, held_out=held_out, class_word=identity.class_word, main=identity.main)
        if other != identity:
            return other
