"""The miniature world: a seed gives a scene, a scene gives a picture, its label map and a caption. Always the same."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from delora_sd.miniature.world.captions import caption_of
from delora_sd.miniature.world.paint.canvas import OVERSAMPLING, Pen, Pose
from delora_sd.miniature.world.things.identity import draw_identity
from delora_sd.miniature.world.things.labels import subject_label
from delora_sd.miniature.world.things.scene import Scene, draw_scene
from delora_sd.miniature.world.things.subject import paint_subject

SIZE_PX = 64
SHADOW = 0.4
REFLECTION = 0.35


def scene_from_seed(seed: int, *, held_out: bool) -> Scene:
    """The scene of a seed, around an identity of the asked side of the split."""
    rng = np.random.default_rng(seed)
    return draw_scene(rng, draw_identity(rng, held_out=held_out))


def picture_and_caption(seed: int) -> tuple[Image.Image, str]:
    """The picture of a seed with its caption, as pretraining sees them."""
    scene = scene_from_seed(seed, held_out=False)
    return render(scene), caption_of(scene, np.random.default_rng([seed, 1]))


def render(scene: Scene, size_px: int = SIZE_PX) -> Image.Image:
    """The RGB picture of a scene."""
    return _compose(scene, _paint(scene, size_px), size_px)


def render_labelled(scene: Scene, size_px: int = SIZE_PX) -> tuple[Image.Image, np.ndarray]:
    """The RGB picture of a scene and its exact label map, (side, side) uint8: 0 or 1 + an index in LABELS.

    A pixel's label is what lies at its centre; the subject's own where it covers at least half of the pixel. Shadows,
    light and reflections change no label.
    """
    layers = _paint(scene, size_px, is_naming_parts=True)
    labels = _centres(layers.ground.parts)
    _, alpha = _planes(layers.subject)
    labels = np.where(alpha[..., 0] >= 0.5, subject_label(scene.identity.class_word), labels)
    if layers.cover:
        cover = _centres(layers.cover.parts)
        labels = np.where(cover > 0, cover, labels)
    return _compose(scene, layers, size_px), labels.astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class _Layers:
    """What a scene is painted on, from the back to the front."""

    ground: Pen
    subject: Pen
    cover: Pen | None


def _paint(scene: Scene, size_px: int, *, is_naming_parts: bool = False) -> _Layers:
    rng = np.random.default_rng(scene.seed)
    ground = Pen(size_px, Pose(), is_naming_parts=is_naming_parts)
    scene.context.paint(ground, rng)
    cover = None
    if scene.context.cover:
        cover = Pen(size_px, Pose(), is_naming_parts=is_naming_parts)
        scene.context.cover(cover, rng)
    return _Layers(ground=ground, subject=paint_subject(scene, size_px), cover=cover)


def _centres(parts: Image.Image) -> np.ndarray:
    """The value at the centre of each pixel of the reduced picture."""
    return np.asarray(parts)[OVERSAMPLING // 2 :: OVERSAMPLING, OVERSAMPLING // 2 :: OVERSAMPLING]


def _compose(scene: Scene, layers: _Layers, size_px: int) -> Image.Image:
    picture, _ = _planes(layers.ground)
    colour, alpha = _planes(layers.subject)
    picture = picture * (1 - SHADOW * _shadow(scene.pose, size_px))
    if scene.context.is_reflecting:
        picture = _reflect(picture, colour, alpha, scene.pose)
    picture = picture * (1 - alpha) + _shade(colour, alpha, scene.light) * alpha
    if layers.cover:
        colour, alpha = _planes(layers.cover)
        picture = picture * (1 - alpha) + colour * alpha
    picture = picture * (1 + 0.05 * scene.light)
    return Image.fromarray((picture.clip(0, 1) * 255 + 0.5).astype(np.uint8))


def _planes(pen: Pen) -> tuple[np.ndarray, np.ndarray]:
    """Colour (side, side, 3) and coverage (side, side, 1) of a layer at picture size, both 0 to 1."""
    reduced = np.asarray(pen.layer.convert("RGBa").reduce(OVERSAMPLING), dtype=np.float32) / 255
    alpha = reduced[..., 3:]
    return reduced[..., :3] / np.maximum(alpha, 1e-3), alpha


def _grid(size_px: int) -> tuple[np.ndarray, np.ndarray]:
    axis = (np.arange(size_px, dtype=np.float32) + 0.5) / size_px
    return axis[None, :, None], axis[:, None, None]


def _shadow(pose: Pose, size_px: int) -> np.ndarray:
    """A soft dark ellipse under the subject's foot."""
    x, y = _grid(size_px)
    distance = ((x - pose.x) / (pose.half * 0.85)) ** 2 + ((y - pose.y - pose.half * 0.95) / (pose.half * 0.2)) ** 2
    return np.exp(-(distance**1.5))


def _shade(colour: np.ndarray, alpha: np.ndarray, light: float) -> np.ndarray:
    """Soft light from one side and from above: it makes flat shapes look round."""
    x, y = _grid(alpha.shape[0])
    mass = alpha.sum() + 1e-3
    dx, dy = x - (x * alpha).sum() / mass, y - (y * alpha).sum() / mass
    return colour * (1.02 - 0.3 * dy + 0.22 * light * dx)


def _reflect(picture: np.ndarray, colour: np.ndarray, alpha: np.ndarray, pose: Pose) -> np.ndarray:
    """The subject upside down below its foot, faded."""
    side = alpha.shape[0]
    foot = round((pose.y + pose.half * 0.97) * side)
    rows = 2 * foot - 1 - np.arange(side)
    inside = ((rows >= 0) & (rows < foot))[:, None, None]
    rows = rows.clip(0, side - 1)
    cover = alpha[rows] * inside * REFLECTION
    return picture * (1 - cover) + colour[rows] * cover
