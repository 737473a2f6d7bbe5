"""The doctor's answer to "does it fit?": what training on a base takes, before anything of it is downloaded."""

from dataclasses import replace
from typing import TYPE_CHECKING

from delora_sd.cli.doctor import Finding
from delora_sd.errors import UserError
from delora_sd.settings import DoctorConfig, ModelConfig

if TYPE_CHECKING:
    from delora_sd.diffusion.families.family import Base
    from delora_sd.training.memory.on_shapes import Needs

_WAYS = (
    ("none", False, "as it is"),
    ("none", True, "training.gradient_checkpointing=true"),
    ("int8", True, "model.quantization=int8 training.gradient_checkpointing=true"),
    ("int4", True, "model.quantization=int4 training.gradient_checkpointing=true"),
)
"""(`model.quantization`, checkpointing, settings), the fastest first."""


def check_memory(config: DoctorConfig) -> list[Finding]:
    """What one adapter takes to train on the base, computed on shapes alone, and the fastest settings that fit."""
    base = known_base(config.model)
    if base is None:
        return []
    from delora_sd.diffusion.parts import resolve_device
    from delora_sd.training.memory.meter import free_bytes
    from delora_sd.training.memory.on_shapes import usual_needs
    from delora_sd.training.memory.pack_size import USABLE_SHARE

    device = resolve_device()
    return [
        memory_finding(
            config.model.base, usual_needs(base), usable=free_bytes(device) * USABLE_SHARE, device=device.type
        )
    ]


def known_base(model: ModelConfig) -> "Base | None":
    """Returns the base with shapes and no weights, from local files or the architecture that a hub id is known to have;
    None where only a download could tell."""
    from delora_sd.diffusion.bases import find_base
    from delora_sd.diffusion.families.table import FAMILIES

    released = {hub_id: name for family in FAMILIES.values() for hub_id, name in family.released.items()}
    try:
        if model.base in released:
            return find_base(replace(model, base=released[model.base]))
        return find_base(replace(model, offline=True))
    except (UserError, OSError):
        return None


def memory_finding(name: str, needs: "Needs", *, usable: float, device: str) -> Finding:
    """Returns the fastest settings with which one adapter trains in the usable bytes, or what would be needed."""
    where = "memory" if device == "cpu" else "GPU memory"
    for kind, is_checkpointed, settings in _WAYS:
        peak = needs.peak(kind, is_checkpointed=is_checkpointed)
        if peak <= usable:
            found = f"training takes {_gb(peak)} of {_gb(usable)} {where} (computed, bf16): {settings}"
            return Finding(topic="memory", name=name, state="ok", found=found)
    least = min(needs.peak(kind, is_checkpointed=True) for kind, _, _ in _WAYS)
    found = (
        f"training takes {_gb(least)} at least (computed, int4 and checkpointing), {_gb(usable)} {where} can be used"
    )
    advice = "a smaller base or model.size_px, or another machine (docs/MEMORY.md)"
    return Finding(topic="memory", name=name, state="absent", found=found, advice=advice)


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
