"""A scene: one subject in one place, with its pose, light and, for the live ones, an outfit."""

from dataclasses import dataclass

import numpy as np

from delora_sd.miniature.world.paint.canvas import Pose
from delora_sd.miniature.world.places.contexts import CONTEXTS, STUDIO, Context
from delora_sd.miniature.world.things.identity import LIVE_CLASSES, Identity
from delora_sd.miniature.world.things.outfits import OUTFITS

FINISHES = ("shiny", "wet", "cube shaped")
FINISH_SHARE = 0.09
OUTFIT_SHARE = 0.3  # of the live subjects
STUDIO_SHARE = 0.2
FOOT_Y = 0.93  # where a standing subject ends, as a fraction of the picture's height


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything a picture depends on. `place` names a context or is None for the studio."""

    identity: Identity
    place: str | None
    finish: str | None
    outfit: str | None
    pose: Pose
    light: float
    seed: int

    @property
    def context(self) -> Context:
        """The place as the painter sees it."""
        return CONTEXTS[self.place] if self.place else STUDIO


def draw_scene(rng: np.random.Generator, identity: Identity) -> Scene:
    """A random scene around an identity, in the proportions pretraining uses."""
    finish = outfit = None
    place: str | None = str(rng.choice(list(CONTEXTS)))
    draw = rng.random()
    if draw < FINISH_SHARE:
        finish = str(rng.choice(FINISHES))
    elif identity.class_word in LIVE_CLASSES and draw < FINISH_SHARE + OUTFIT_SHARE:
        outfit = str(rng.choice(list(OUTFITS)))
    if rng.random() < (0.7 if finish or outfit else STUDIO_SHARE):
        place = None
    return place_subject(rng, identity, place=place, finish=finish, outfit=outfit)


def place_subject(
    rng: np.random.Generator,
    identity: Identity,
    *,
    place: str | None,
    finish: str | None = None,
    outfit: str | None = None,
) -> Scene:
    """A scene with a random pose: the subject takes 72 to 82% of the picture's height, near the middle."""
    half = float(rng.uniform(0.36, 0.41))
    pose = Pose(
        x=0.5 + float(rng.uniform(-0.03, 0.03)),
        y=FOOT_Y - half + float(rng.uniform(-0.01, 0.01)),
        half=half,
        tilt=float(rng.uniform(-3, 3)),
    )
    return Scene(
        identity=identity,
        place=place,
        finish=finish,
        outfit=outfit,
        pose=pose,
        light=float(rng.uniform(-1, 1)),
        seed=int(rng.integers(2**31)),
    )


def scatter_subject(rng: np.random.Generator, identity: Identity, *, place: str | None) -> Scene:
    """A scene whose subject stands anywhere, large or small: what a label map tells and a caption does not."""
    half = float(rng.uniform(0.24, 0.41))
    pose = Pose(
        x=float(rng.uniform(0.9 * half, 1 - 0.9 * half)),
        y=FOOT_Y - half - float(rng.uniform(0.0, 0.16)),
        half=half,
        tilt=float(rng.uniform(-3, 3)),
    )
    light, seed = float(rng.uniform(-1, 1)), int(rng.integers(2**31))
    return Scene(identity=identity, place=place, finish=None, outfit=None, pose=pose, light=light, seed=seed)
