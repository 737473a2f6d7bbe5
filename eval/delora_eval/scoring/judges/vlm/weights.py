"""Where the asked model is: a local folder or a snapshot of a hub repository, checked and hashed at the door."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

from delora_eval.scoring.judges.vlm.network import has_chat_template
from delora_eval.scoring.judges.weights import ENCODERS, HASH_DIGITS, VLM, Weights
from delora_eval.settings import EncoderConfig
from delora_sd.errors import UserError
from delora_sd.files.hashing import hash_file

_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
"""What is downloaded of a repository: no pickles, no code."""


def find_asked_model(config: EncoderConfig) -> tuple[Weights, Path]:
    """Returns (name and hash of the model, its folder).

    Raises:
        UserError: none named, none found, pickles only, or no chat template.
    """
    if config.vlm is None:
        raise UserError(
            "judges that are asked (vqa, rubric) need a vision-language model: encoders.vlm=FOLDER or a hub id, "
            "such as HuggingFaceTB/SmolVLM-500M-Instruct"
        )
    folder = _folder(config)
    files = sorted(folder.glob("*.safetensors"))
    if not files and not config.random_weights:
        raise UserError(f"encoders.vlm={config.vlm}: no .safetensors file in {folder} (pickles are refused)")
    if not has_chat_template(folder):
        raise UserError(
            f"encoders.vlm={config.vlm}: no chat template (chat_template.jinja, or chat_template in "
            "tokenizer_config.json), so how to put a question to it is unknown; use a model tuned for instructions"
        )
    name = config.vlm.rstrip("/").rpartition("/")[2] if Path(config.vlm).expanduser().is_dir() else config.vlm
    spec = replace(ENCODERS[VLM], id=f"{VLM}/{name}")
    if config.random_weights:
        return Weights(spec=spec, file=None, hash="random"), folder
    return Weights(spec=spec, file=files[0], hash=_hash(files)), folder


def _folder(config: EncoderConfig) -> Path:
    local = Path(config.vlm).expanduser()
    if local.is_dir():
        return local
    if config.vlm.startswith(("/", "~", ".")):
        raise UserError(f"encoders.vlm={config.vlm}: no such folder")
    from huggingface_hub import snapshot_download

    offline = config.offline or os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
    try:
        return Path(snapshot_download(config.vlm, allow_patterns=_FILES, local_files_only=offline))
    except Exception as error:  # the hub's client raises many kinds; all mean "not there"
        where = "the hub's cache (offline: the hub was not asked)" if offline else f"the hub ({type(error).__name__})"
        raise UserError(
            f"encoders.vlm={config.vlm}: no such folder, and not found in {where}; visit "
            f"https://huggingface.co/{config.vlm}, accept its licence if it has one, then run `hf auth login` here, or "
            "download it there and give its folder"
        ) from None


def _hash(files: list[Path]) -> str:
    """One file: its hash, as of every encoder. Several: the hash of their hashes, in order of name."""
    hashes = [hash_file(file) for file in files]
    whole = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
    return whole[:HASH_DIGITS]
