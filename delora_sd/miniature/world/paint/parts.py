"""What the places are made of: the names of the regions of an exact label map. A subject's part is its class word."""

PARTS = (
    "wall", "floor", "plant", "grass", "sky", "snow", "water", "sand", "pavement", "fabric", "building", "mountain",
    "rug", "field", "earth", "milk", "flower", "mirror", "person",
)  # fmt: skip
"""A painter names the part (`pen.part`) before it draws its shapes."""
