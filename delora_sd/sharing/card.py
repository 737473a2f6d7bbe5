"""`delora-sd card`: a README.md that the hub understands: what the run folder says, without places of this machine.

The metadata is written and read by huggingface_hub's own card classes.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from delora_sd.config.deciding import differing_settings, read_run_settings
from delora_sd.data.prompts import render_prompt
from delora_sd.errors import UserError
from delora_sd.files.records import check_record
from delora_sd.files.run_folder import RunFolder, read_lines, write_text
from delora_sd.generation.requests import LISTING, read_listing
from delora_sd.settings import DEFAULT_BASE, TrainConfig
from delora_sd.sharing.settings import CardConfig

CARD = "README.md"
WIDGET_IMAGES = 6
"""On the hub they stand in a row; one per prompt."""

_LICENCES = {
    DEFAULT_BASE: "creativeml-openrail-m",
    "stabilityai/stable-diffusion-xl-base-1.0": "openrail++",
    "miniature": "mit",
}
"""Of the bases that we name ourselves; an adapter is under its base's."""
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_PLACES = ("output_dir", "model.base", "data.photos", "data.dataset", "data.captions", "adapter.peft_config")
"""Settings that may name folders of this machine: no reader needs them."""
_SCORE_FIELDS = {
    "score": str, "protocol": str, "value": float | None, "prompt": str | None, "subject": str | None,
    "encoder": str | None, "pairs": int | None, "set": str | None, "random_weights": bool,
}  # fmt: skip


def write_card(config: CardConfig) -> Path:
    """Writes README.md into the run folder; returns its path.

    Raises:
        UserError: no finished run, an unknown licence, or a README.md that says something else.
    """
    run = finished_run(config.run)
    text, file = render_card(run, licence=config.licence), run.path / CARD
    if file.exists() and file.read_bytes() != text.encode() and not config.overwrite:
        raise UserError(f"{file} exists and says something else; overwrite=true writes it anew")
    write_text(file, text)
    return file


def finished_run(name: str) -> RunFolder:
    """Returns the run folder. Raises UserError unless its training is finished."""
    if not name:
        raise UserError("run: missing; give a run folder, such as runs/rex")
    run = RunFolder(Path(name).expanduser())
    run.check_version()
    if not (run.config.is_file() and run.is_finished()):
        raise UserError(f"run={name}: no finished run there; train it to its end first")
    return run


def render_card(run: RunFolder, *, licence: str | None) -> str:
    """Returns the card: metadata between two lines of dashes, then Markdown."""
    from huggingface_hub import ModelCardData

    config, manifest = read_run_settings(run.config), run.read_manifest()
    trigger = render_prompt(
        "{identifier} {class_word}",
        identifier=config.data.identifier,
        class_word=manifest.get("subject", {}).get("class_word"),
    )
    images = widget_images(run)
    data = ModelCardData(
        base_model=_hub_id(config.model.base),
        library_name="diffusers",
        pipeline_tag="text-to-image",
        license=_licence(config.model.base, licence),
        tags=["text-to-image", "stable-diffusion", "lora", "dreambooth", config.adapter.method, "delora_sd"],
        instance_prompt=f"a photo of {trigger}",
        widget=[{"text": prompt, "output": {"url": image}} for image, prompt in images.items()] or None,
    )
    sections = [
        f"# {run.path.resolve().name}",
        _opening(config, manifest, trigger),
        _use(run, trigger),
        _scores(run),
        _settings(config, manifest),
        _limits(manifest, trigger),
    ]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n"


def widget_images(run: RunFolder) -> dict[str, str]:
    """Returns {path in the run folder: prompt} of the first image of each prompt, newest set of images first."""
    found: dict[str, str] = {}
    for listing in sorted(run.images.glob(f"[!.]*/{LISTING}"), key=lambda file: (-file.stat().st_mtime, file)):
        for record in read_listing(listing):
            image = listing.parent / record["file"]
            if record["prompt"] and record["prompt"] not in found.values() and image.is_file():
                found[image.relative_to(run.path).as_posix()] = record["prompt"]
    return dict(list(found.items())[:WIDGET_IMAGES])


def _hub_id(base: str) -> str | None:
    """A run writes local folders as absolute paths; what is left is a name, and one with an owner is the hub's."""
    return base if _HUB_ID.fullmatch(base) else None


def _licence(base: str, given: str | None) -> str:
    licence = given or _LICENCES.get(base)
    if licence is None:
        known = " or ".join(_LICENCES)
        raise UserError(
            f"licence: missing; only that of {known} is known. An adapter is under the licence of its base: give "
            "the hub's name of it, such as licence=creativeml-openrail-m"
        )
    return licence


def _opening(config: TrainConfig, manifest: Mapping[str, Any], trigger: str) -> str:
    num_photos, steps = len(manifest.get("photos", {})), manifest.get("finished_step")
    base = _hub_id(config.model.base) or ("the miniature" if config.model.base == "miniature" else "a local base")
    text = (
        f"An adapter of {base} (`{config.adapter.method}`, rank {config.adapter.rank}), trained by DreamBooth on "
        f"{num_photos} photos of one subject for {steps} steps with delora_sd {manifest.get('delora_sd', '')}.\n\n"
        f"**Say `{trigger}`** in a prompt to call the subject."
    )
    if manifest.get("base", {}).get("random_weights"):
        text += "\n\n**The base had random weights: the images mean nothing. This is a test of the software.**"
    return text


def _use(run: RunFolder, trigger: str) -> str:
    file = next(iter(sorted(run.export.glob("[!.]*.diffusers.safetensors"))), None)
    if file is None:
        return "## Use\n\n`delora-sd generate` draws with the folder `adapter/`; it has no plain LoRA file."
    return (
        "## Use\n\n```python\npipe.load_lora_weights('OWNER/NAME', "
        f'weight_name="{file.name}")\nimage = pipe("a photo of {trigger} on the beach").images[0]\n```\n\n'
        "The kohya file is for ComfyUI, AUTOMATIC1111 and Forge; `adapter/` is the native adapter."
    )


def _scores(run: RunFolder) -> str:
    lines = [_checked(line) for line in read_lines(run.scores)] if run.scores.exists() else []
    rows = [
        f"| {_cell(line.get('set'))} | {line['score']} | {line['value']:.4f} | {line['protocol']} | {_judge(line)} | "
        f"{_cell(line.get('pairs'))} |"
        for line in lines
        if line.get("prompt") is None and line.get("value") is not None
    ]
    if not rows:
        return "## Scores\n\nNot scored."
    head = "| images | score | value | protocol | encoder | pairs |\n| --- | --- | --- | --- | --- | --- |"
    note = (
        "Subject fidelity says nothing without prompt fidelity beside it: an overfitted adapter scores high on the "
        "first alone. Numbers compare only under the same protocol and encoder. Sets named `real_...` are the photos."
    )
    return "\n".join(["## Scores\n", head, *rows, "", note])


def _judge(line: dict[str, Any]) -> str:
    return _cell(line.get("encoder")) + (" (random weights)" if line.get("random_weights") else "")


def _checked(line: Any) -> dict[str, Any]:
    needed = {"score": str, "protocol": str}
    optional = {key: hint for key, hint in _SCORE_FIELDS.items() if key not in needed}
    return check_record(line, needed, optional, source="scores.jsonl", advice="score the run again")


def _cell(value: Any) -> str:
    return str(value or "").replace("|", "/")


def _settings(config: TrainConfig, manifest: Mapping[str, Any]) -> str:
    changed = {key: value for key, value in differing_settings(config).items() if key not in _PLACES}
    rows = [f"| {key} | {_cell(value) if isinstance(value, str) else value} |" for key, value in changed.items()]
    lines = ["## Settings", "", "Those that differ from the defaults, places left out.", ""]
    lines += ["| setting | value |", "| --- | --- |", *rows, f"| seed | {config.seed} |"]
    versions = ", ".join(f"{name} {version}" for name, version in manifest.get("versions", {}).items())
    return "\n".join([*lines, "", f"Trained on {manifest.get('device', 'an unknown device')}; {versions}."])


def _limits(manifest: Mapping[str, Any], trigger: str) -> str:
    held_out = len(manifest.get("held_out", {}))
    tested = (
        f"{held_out} photos were held out." if held_out else "No photo was held out: learning and copying look alike."
    )
    return "\n".join(
        [
            "## What it cannot do",
            "",
            f"- It knows one subject, from few photos: sides and poses that no photo shows are invented. {tested}",
            f"- Without `{trigger}` in the prompt it should change little, but it may drift: compare with strength 0.",
            "- It has its base's limits: text, hands, counting, and the biases of what that was trained on.",
            "- Make no images of a person with it without that person's consent.",
        ]
    )
