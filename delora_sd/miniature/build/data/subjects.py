"""Held-out subjects in the DreamBooth layout: `python -m delora_sd.miniature.build.data.subjects --seed N --out DIR`.

No identity here was ever seen in pretraining: the split is a hash of the identity's parameters.
"""

import argparse
import csv
import io
from pathlib import Path

import numpy as np
from PIL import Image

from delora_sd.files.run_folder import write_bytes, write_text
from delora_sd.miniature.world.places.contexts import CONTEXTS
from delora_sd.miniature.world.render import render
from delora_sd.miniature.world.things.identity import Identity, draw_identity
from delora_sd.miniature.world.things.scene import Scene, place_subject

SHIPPED_SEED = 0
SUBJECT_CLASSES = {
    "backpack": "backpack",
    "backpack_dog": "backpack",
    "bear_plushie": "stuffed animal",
    "berry_bowl": "bowl",
    "can": "can",
    "candle": "candle",
    "cat": "cat",
    "cat2": "cat",
    "clock": "clock",
    "colorful_sneaker": "sneaker",
    "dog": "dog",
    "dog2": "dog",
    "dog3": "dog",
    "dog5": "dog",
    "dog6": "dog",
    "dog7": "dog",
    "dog8": "dog",
    "duck_toy": "toy",
    "fancy_boot": "boot",
    "grey_sloth_plushie": "stuffed animal",
    "monster_toy": "toy",
    "pink_sunglasses": "glasses",
    "poop_emoji": "toy",
    "rc_car": "toy",
    "red_cartoon": "cartoon",
    "robot_toy": "toy",
    "shiny_sneaker": "sneaker",
    "teapot": "teapot",
    "vase": "vase",
    "wolf_plushie": "stuffed animal",
}
# What a name promises is kept where the world can: main colour, and accessory or kind.
WISHES: dict[str, dict[str, str | int]] = {
    "backpack_dog": {"extra": 2},
    "bear_plushie": {"main": "brown"},
    "duck_toy": {"extra": 1, "main": "yellow"},
    "grey_sloth_plushie": {"main": "grey"},
    "monster_toy": {"extra": 0, "main": "green"},
    "pink_sunglasses": {"main": "pink"},
    "poop_emoji": {"extra": 0, "main": "brown"},
    "rc_car": {"extra": 2},
    "red_cartoon": {"main": "red"},
    "robot_toy": {"extra": 0},
    "wolf_plushie": {"main": "black"},
}
NUM_PICTURES = (4, 5, 6)
STUDIO_PICTURES = 2  # of each subject; the others lie in places of the world


def subject_identities(seed: int) -> dict[str, Identity]:
    """The held-out identity of every subject; two subjects of one class never share their main colour."""
    chosen: dict[str, Identity] = {}
    for index, (name, class_word) in enumerate(SUBJECT_CLASSES.items()):
        taken = {identity.main for identity in chosen.values() if identity.class_word == class_word}
        chosen[name] = _wished_identity(np.random.default_rng([seed, index]), name, taken)
    return chosen


def _wished_identity(rng: np.random.Generator, name: str, taken: set[str]) -> Identity:
    wish = WISHES.get(name, {})
    main = str(wish["main"]) if "main" in wish else None
    while True:
        identity = draw_identity(rng, held_out=True, class_word=SUBJECT_CLASSES[name], main=main)
        is_granted = "extra" not in wish or identity.extra == wish["extra"]
        if is_granted and (identity.main not in taken or main is not None):
            return identity


def subject_scenes(name: str, identity: Identity, seed: int) -> list[Scene]:
    """4 to 6 scenes of one subject in different places."""
    rng = np.random.default_rng([seed, list(SUBJECT_CLASSES).index(name), 1])
    count = int(rng.choice(NUM_PICTURES))
    places = [None] * STUDIO_PICTURES + rng.permutation(list(CONTEXTS))[: count - STUDIO_PICTURES].tolist()
    return [place_subject(rng, identity, place=place) for place in places]


def write_subjects(folder: Path, *, seed: int) -> None:
    """Writes `<name>/00.png ...` for all 30 subjects and `classes.csv`."""
    for name, identity in subject_identities(seed).items():
        for index, scene in enumerate(subject_scenes(name, identity, seed)):
            write_bytes(folder / name / f"{index:02d}.png", png_bytes(render(scene)))
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("subject_name", "class"))
    writer.writerows(SUBJECT_CLASSES.items())
    write_text(folder / "classes.csv", table.getvalue())


def png_bytes(picture: Image.Image) -> bytes:
    """The picture as a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True, help="another seed, another 30 subjects; 0 ships")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    arguments = parser.parse_args()
    write_subjects(arguments.out, seed=arguments.seed)
    print(f"30 subjects of seed {arguments.seed} in {arguments.out}")


if __name__ == "__main__":
    main()
