"""What can be taken away: files for each tool, where to put them, the card. Reading only."""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

from delora_sd.files.run_folder import RunFolder

CARD = "README.md"


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A program that people draw with, and where it wants its files."""

    name: str
    layout: str
    """Of `delora-sd export`."""
    place: str


TOOLS = (
    Tool(name="ComfyUI", layout="kohya", place="ComfyUI/models/loras/, then the node Load LoRA"),
    Tool(name="AUTOMATIC1111, Forge", layout="kohya", place="models/Lora/, then <lora:NAME:1> in the prompt"),
    Tool(name="diffusers", layout="diffusers", place='pipe.load_lora_weights("FOLDER", weight_name="NAME")'),
    Tool(name="PEFT", layout="peft", place='PeftModel.from_pretrained(pipe.unet, "FOLDER"), after unpacking'),
)


@dataclass(frozen=True, kw_only=True)
class TakeFile:
    """One file that lies in a run's folder."""

    file: Path
    layout: str
    size: int


def find_files(run: RunFolder) -> list[TakeFile]:
    """Returns the exports that are there, by name."""
    found = []
    for file in sorted(run.export.glob("[!.]*")) if run.export.is_dir() else []:
        if file.is_file() and file.suffix == ".safetensors":
            found.append(TakeFile(file=file, layout=_layout(file), size=file.stat().st_size))
        elif file.is_dir() and file.suffix == ".peft":
            size = sum(part.stat().st_size for part in file.rglob("*") if part.is_file())
            found.append(TakeFile(file=file, layout="peft", size=size))
    return found


def read_card(run: RunFolder) -> str:
    """Returns the model card's text, "" before there is one."""
    file = run.path / CARD
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


def zip_folder(folder: Path) -> bytes:
    """Returns the folder's files as one .zip, not compressed: weights do not shrink."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file() and not file.is_symlink():
                archive.write(file, f"{folder.name}/{file.relative_to(folder).as_posix()}")
    return buffer.getvalue()


def _layout(file: Path) -> str:
    parts = file.name.split(".")
    return parts[-2] if len(parts) > 2 else "kohya"
