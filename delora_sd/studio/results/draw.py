"""From the form of the fourth room to the commands that draw: what is asked for, and what it is compared with."""

import json
from dataclasses import dataclass, field

from delora_sd.config.load import load_config
from delora_sd.data.prompts import load_prompts
from delora_sd.errors import UserError
from delora_sd.settings import GenerateConfig
from delora_sd.studio.folder import StudioFolder
from delora_sd.studio.trainings.presets import draw_settings
from delora_sd.studio.trainings.progress import read_run

BENCHMARK = "dreambooth"
MOST_IMAGES = 400


@dataclass(frozen=True, kw_only=True)
class DrawWish:
    """What the form says."""

    run: str
    prompts: str
    """One per line."""
    use_benchmark: bool = False
    """The 25 prompts of the benchmark instead."""
    step: int | None = None
    """None: the final adapter."""
    strength: float = 1.0
    extra: dict[str, float] = field(default_factory=dict)
    """{another run: strength}"""
    negative: str = ""
    seed: int = 0
    images_per_prompt: int = 1
    num_inference_steps: int = 25
    guidance: float | None = None
    """None: what is usual on the base."""
    with_base: bool = False
    with_step: int | None = None
    """Also draw the same with this checkpoint."""


def draw_commands(folder: StudioFolder, wish: DrawWish) -> tuple[tuple[str, ...], ...]:
    """Returns the commands, what is compared with last.

    Raises:
        UserError: no run, prompts or numbers that make no image.
    """
    run, view = folder.run(wish.run), read_run(folder, wish.run)
    if view.config is None:
        raise UserError(view.problem)
    prompts = [BENCHMARK] if wish.use_benchmark else _own_prompts(wish.prompts)
    settings = {
        "prompts": json.dumps(prompts, ensure_ascii=False),
        "images_per_prompt": wish.images_per_prompt,
        "seed": wish.seed,
        "num_inference_steps": wish.num_inference_steps,
    } | draw_settings(view.config.model.base)
    settings |= {} if wish.guidance is None else {"guidance": f"{wish.guidance:g}"}
    settings |= {"negative_prompt": wish.negative} if wish.negative.strip() else {}
    own = {} if wish.step is None else {"step": wish.step}
    own |= {"strength": f"{wish.strength:g}"} if wish.strength != 1 else {}
    own |= {"extra_adapters": json.dumps(_others(folder, wish), ensure_ascii=False)} if wish.extra else {}
    wanted = [own]
    if wish.with_base:
        wanted.append({"strength": 0} | ({} if wish.step is None else {"step": wish.step}))
    if wish.with_step is not None and wish.with_step != wish.step:
        wanted.append({"step": wish.with_step} | {key: value for key, value in own.items() if key != "step"})
    commands = [("generate", str(run.path.absolute()), *_words(settings | each)) for each in wanted]
    _check(commands, prompts, view.config.data.identifier)
    return tuple(commands)


def _own_prompts(text: str) -> list[str]:
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise UserError("prompts: write at least one, such as: a {identifier} {class_word} on the beach")
    for prompt in prompts:
        if prompt.endswith(".txt") or prompt in (BENCHMARK, "class"):
            raise UserError(f"prompts: '{prompt[:60]}' means a list, not an image; describe the image, or use the list")
    return prompts


def _others(folder: StudioFolder, wish: DrawWish) -> dict[str, float]:
    if wish.run in wish.extra:
        raise UserError(f"more adapters: {wish.run} is drawn from already; its strength is above")
    return {str(folder.run(name).path.absolute()): strength for name, strength in wish.extra.items()}


def _words(settings: dict[str, object]) -> list[str]:
    return [f"{key}={value}" for key, value in settings.items()]


def _check(commands: list[tuple[str, ...]], asked: list[str], identifier: str) -> None:
    """Reads the first command back as the command line will, and counts."""
    config = load_config(GenerateConfig, [], [f"run={commands[0][1]}", *commands[0][2:]])
    if config.prompts != tuple(asked):
        raise UserError("prompts: a bracket without its partner would be read as part of the list; remove it")
    prompts = load_prompts(config.prompts, identifier=identifier, class_word="thing", is_live=True)
    if config.images_per_prompt < 1:
        raise UserError(f"images per prompt: {config.images_per_prompt}; expected at least 1")
    num_images = len(prompts) * config.images_per_prompt * len(commands)
    if num_images > MOST_IMAGES:
        raise UserError(f"{num_images} images; expected at most {MOST_IMAGES} at once, the command line draws more")
