"""The places of the world: the benchmark's phrase for each, who paints it, and what it puts in front."""

from collections.abc import Callable
from dataclasses import dataclass

from delora_sd.miniature.world.paint.canvas import Pen
from delora_sd.miniature.world.places import contexts_nature as nature
from delora_sd.miniature.world.places import contexts_places as places

Painter = Callable[[Pen, nature.Rng], None]


@dataclass(frozen=True, kw_only=True)
class Context:
    """A place: its words in a caption, its background, and what covers the subject's foot."""

    phrase: str
    paint: Painter
    cover: Painter | None = None
    is_reflecting: bool = False


STUDIO = Context(phrase="", paint=places.paint_studio)

CONTEXTS: dict[str, Context] = {
    "jungle": Context(phrase="in the jungle", paint=nature.paint_jungle),
    "snow": Context(phrase="in the snow", paint=nature.paint_snow),
    "beach": Context(phrase="on the beach", paint=nature.paint_beach),
    "cobblestone": Context(phrase="on a cobblestone street", paint=places.paint_cobblestone),
    "pink_fabric": Context(phrase="on top of pink fabric", paint=places.paint_pink_fabric),
    "wooden_floor": Context(phrase="on top of a wooden floor", paint=places.paint_wooden_floor),
    "city": Context(phrase="with a city in the background", paint=places.paint_city),
    "mountain": Context(phrase="with a mountain in the background", paint=nature.paint_mountain),
    "blue_house": Context(phrase="with a blue house in the background", paint=places.paint_blue_house),
    "purple_rug": Context(phrase="on top of a purple rug in a forest", paint=nature.paint_purple_rug_in_forest),
    "wheat_field": Context(phrase="with a wheat field in the background", paint=nature.paint_wheat_field),
    "autumn_tree": Context(phrase="with a tree and autumn leaves in the background", paint=nature.paint_autumn_tree),
    "eiffel_tower": Context(phrase="with the Eiffel Tower in the background", paint=places.paint_eiffel_tower),
    "water": Context(phrase="floating on top of water", paint=nature.paint_water, cover=nature.cover_water),
    "milk": Context(phrase="floating in an ocean of milk", paint=nature.paint_milk, cover=nature.cover_milk),
    "sunflowers": Context(phrase="on top of green grass with sunflowers around it", paint=nature.paint_sunflowers),
    "mirror": Context(phrase="on top of a mirror", paint=places.paint_mirror, is_reflecting=True),
    "crowded_street": Context(phrase="on top of the sidewalk in a crowded street", paint=places.paint_crowded_street),
    "dirt_road": Context(phrase="on top of a dirt road", paint=nature.paint_dirt_road),
    "white_rug": Context(phrase="on top of a white rug", paint=places.paint_white_rug),
}
