"""What judges need and people forget: masks, a model to ask, a name."""

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from bad_inputs.case import Case, World


def score(*settings: str, masks: Callable[[Path], object] | None = None) -> Callable[[World], list[str]]:
    """Scores four photos against themselves; `masks` fills the folder of their masks."""

    def command(world: World) -> list[str]:
        folder = world.folder / "rex"
        (folder / "masks").mkdir(parents=True)
        for photo in world.photos.iterdir():
            (folder / photo.name).write_bytes(photo.read_bytes())
        if masks is not None:
            masks(folder / "masks")
        where = [f"reference={folder}", f"generated={world.photos}", f"output={world.folder / 'scores.jsonl'}"]
        return ["score", *where, "encoders.random_weights=true", *(part.format(world=world) for part in settings)]

    return command


def draw(*, size: tuple[int, int] = (48, 40), grey: int = 255, names: tuple[str, ...] = ("00", "01", "02", "03")):
    """Returns a function that draws one-coloured masks into a folder."""
    return lambda folder: [Image.new("L", size, grey).save(folder / f"{name}.png") for name in names]


def _mute_model(world: World) -> list[str]:
    for name in ("config.json", "tokenizer_config.json", "model.safetensors"):
        world.path(f"mute/{name}", "{}")
    return score("judges.set=vqa", f"encoders.vlm={world.folder / 'mute'}")(world)


REFUSED = (
    Case(
        name="a judge nobody knows",
        command=score("judges.set=dinov2/vitb14"),
        says=("judges.set", "did you mean 'dinov2/vit-b-14'"),
    ),
    Case(
        name="masc without masks",
        command=score("judges.set=masc"),
        says=("no mask for 4 of 4 photos", "00.png", "delora-sd masks", "class_word="),
    ),
    Case(
        name="masc with some masks",
        command=score("judges.set=masc", masks=draw(names=("00", "02"))),
        says=("no mask for 2 of 4 photos (01.png, 03.png)", "delora-sd masks"),
    ),
    Case(
        name="a mask of another size",
        command=score("judges.set=masc", masks=draw(size=(40, 48))),
        says=("00.png", "40 x 48 px", "48 x 40 px", "delora-sd masks"),
    ),
    Case(
        name="an empty mask",
        command=score("judges.set=masc", masks=draw(grey=0)),
        says=("00.png", "an empty mask", "draw the subject white"),
    ),
    Case(
        name="a mask of another name",
        command=score("judges.set=masc", masks=draw(names=("00", "01", "02", "003"))),
        says=("003.png", "no photo of that name", "did you mean '03'"),
    ),
    Case(
        name="masks in a folder that is not there",
        command=score("judges.set=masc", "judges.masks={world.folder}/nowhere"),
        says=("judges.masks=", "no such folder", "delora-sd masks"),
    ),
    Case(
        name="vqa without a model",
        command=score("judges.set=vqa"),
        says=("need a vision-language model", "encoders.vlm="),
    ),
    Case(
        name="a language model without a chat template",
        command=_mute_model,
        says=("encoders.vlm=", "no chat template", "tuned for instructions"),
    ),
    Case(
        name="masks without a class word",
        command=lambda world: ["masks", str(world.photos)],
        says=("class_word is missing", "dog"),
    ),
    Case(
        name="masks of a folder without photos",
        command=lambda world: ["masks", str(world.path("empty/notes.txt", "x").parent), "class_word=dog"],
        says=("no photos in", "empty"),
    ),
)
