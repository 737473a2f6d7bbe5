"""Named colours of the miniature world; the names are the colour words of the captions."""

Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "red": (222, 48, 46),
    "orange": (246, 138, 36),
    "yellow": (250, 208, 50),
    "green": (62, 170, 76),
    "turquoise": (52, 194, 190),
    "blue": (50, 108, 220),
    "purple": (138, 66, 190),
    "pink": (246, 134, 182),
    "brown": (140, 88, 52),
    "white": (246, 244, 238),
    "grey": (142, 146, 154),
    "black": (46, 44, 54),
}
INK: Colour = (34, 30, 40)
CREAM: Colour = (255, 240, 214)
WHITE: Colour = (255, 255, 255)
SILVER: Colour = (200, 206, 214)
GOLD: Colour = (248, 200, 60)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """`first` moved by `share` (0 to 1) of the way to `second`."""
    return tuple(round(a + (b - a) * share) for a, b in zip(first, second, strict=True))


def darker(colour: Colour, share: float = 0.3) -> Colour:
    """`colour` moved towards ink."""
    return mix(colour, INK, share)


def lighter(colour: Colour, share: float = 0.4) -> Colour:
    """`colour` moved towards white."""
    return mix(colour, WHITE, share)
