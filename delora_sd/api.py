"""The maker as a library, `from delora_sd import train, generate`: the settings, files and errors of the command line.

No torch before the first call.
"""

from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from delora_sd.config.load import load_config, to_dict
from delora_sd.config.overlay import Config, with_settings
from delora_sd.errors import UserError
from delora_sd.maps.settings import MapGenerateConfig
from delora_sd.settings import GenerateConfig, TrainConfig

Given = str | Path | Mapping[str, Any]
"""A settings file (.yaml), one `key=value` as on the command line, or {setting: value}, nested or dotted."""


def train(*given: Given | TrainConfig, **settings: Any) -> Path:
    """Trains one subject and returns its run folder; the same call again resumes, a finished run is left alone.

    Args:
        given: Settings, later ones win: a `TrainConfig` to start from, files, `key=value`, mappings.
        settings: The same by name, a section as a mapping: `output_dir="runs/rex", adapter={"rank": 4}`.

    Raises:
        UserError: settings or photos that cannot work, a changed config, or a loss that was not finite.
    """
    from delora_sd.training.recipe import train as train_one

    config = settings_of(TrainConfig, given, settings)
    train_one(config)
    return Path(config.output_dir).expanduser()


def generate(run: str | Path | GenerateConfig, *given: Given, **settings: Any) -> Path:
    """Draws images and returns their folder (PNG files and images.jsonl); the same call again draws what is missing.

    Args:
        run: A run folder, a PEFT folder, a plain LoRA file, `base`, or a `GenerateConfig` to start from.
        given: Settings, as for `train`.
        settings: The same by name: `prompts=["a {identifier} {class_word} in the snow"], images_per_prompt=2`.

    Raises:
        UserError: settings, prompts, an adapter or a base model that cannot work; a disk that is full.
    """
    from delora_sd.maps.generate import generate as draw

    first = to_dict(run) if isinstance(run, GenerateConfig) else {"run": run}
    return draw(settings_of(MapGenerateConfig, (first, *given), settings))


def settings_of(schema: type[Config], given: tuple[Any, ...], named: Mapping[str, Any]) -> Config:
    """Returns the defaults, or the config that stands first, under what is given left to right, then by name.

    Raises:
        UserError: what is neither settings nor a settings file, unknown key (names the nearest), wrong type.
    """
    starts = bool(given) and isinstance(given[0], schema)
    config = given[0] if starts else schema()
    for item in given[1:] if starts else given:
        if isinstance(item, Mapping):
            config = with_settings(config, _plain(item), source="settings")
        elif isinstance(item, Path) or (isinstance(item, str) and item.endswith((".yaml", ".yml")) and "=" not in item):
            config = load_config(schema, [item], [], start=config)
        elif isinstance(item, str):
            config = load_config(schema, [], [item], start=config)
        else:
            raise UserError(
                f"settings: found {type(item).__name__}; accepted: a .yaml file, 'key=value', {{setting: value}}, "
                f"and a {schema.__name__} in first place"
            )
    return with_settings(config, _plain(named), source="settings")


def _plain(value: Any) -> Any:
    """Paths as text, sections given as dataclasses as mappings, sequences as lists."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if is_dataclass(value):
        return to_dict(value)
    return str(value) if isinstance(value, Path) else value
