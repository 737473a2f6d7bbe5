"""Every family of bases we know. A new one is a file beside this one and a row here."""

from functools import cache
from pathlib import Path
from typing import Any

from delora_sd.config.load import read_yaml
from delora_sd.diffusion.families.family import Configs, Family, Shapes
from delora_sd.diffusion.families.flux2 import FLUX2
from delora_sd.diffusion.families.sd import SD
from delora_sd.diffusion.families.sdxl import SDXL
from delora_sd.diffusion.families.zimage import ZIMAGE

FAMILIES: dict[str, Family] = {family.name: family for family in (SD, SDXL, FLUX2, ZIMAGE)}


def family_of(configs: Configs) -> Family | None:
    """Returns the family that a base with these configs belongs to; None: of none we know."""
    return next((family for family in FAMILIES.values() if family.claims(configs)), None)


def family_of_layers(shapes: Shapes) -> Family:
    """Returns the family whose bases have layers of these names; Stable Diffusion's where nobody claims them."""
    return next((family for family in FAMILIES.values() if family.export.claims_layers(shapes)), SD)


def family_of_architecture(name: str) -> Family | None:
    return next((family for family in FAMILIES.values() if name in family.architectures), None)


def architectures() -> tuple[str, ...]:
    """Returns every `model.base` of real sizes and random weights."""
    return tuple(name for family in FAMILIES.values() for name in family.architectures)


@cache
def read_architecture(name: str) -> dict[str, dict[str, Any]]:
    """Returns the configs of a real base's parts, which `model.base=NAME` gives random weights."""
    return read_yaml(Path(__file__).parent / "architectures" / f"{name}.yaml")


def titles() -> str:
    """Returns the families as a message lists them."""
    return ", ".join(family.title for family in FAMILIES.values())
