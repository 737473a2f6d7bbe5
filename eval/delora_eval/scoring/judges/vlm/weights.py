"""Where the asked model is: a local folder or a snapshot of a hub repository, checked and hashed at the door."""

import hashlib
from dataclasses import replace
from pathlib import Path

from delora_eval.scoring.judges.networks.weights import ENCODERS, HASH_DIGITS, VLM, Weights
from delora_eval.scoring.judges.vlm.network import has_chat_template
from delora_eval.settings import EncoderConfig
from delora_sd.errors import UserError
from delora_sd.files.contents import hash_file
from delora_sd.files.hub import find_model_folder


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
    try:
        return find_model_folder(config.vlm, is_offline=config.offline)
    except FileNotFoundError as error:
        if config.vlm.startswith(("/", "~", ".")):
            raise UserError(f"encoders.vlm={config.vlm}: {error}") from None
        raise UserError(
            f"encoders.vlm={config.vlm}: no such folder, and {error}; visit "
            f"https://huggingface.co/{config.vlm}, accept its licence if it has one, then run `hf auth login` here, or "
            "download it there and give its folder"
        ) from None


def _hash(files: list[Path]) -> str:
    """One file: its hash, as of every encoder. Several: the hash of their hashes, in order of name."""
    hashes = [hash_file(file) for file in files]
    whole = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
    return whole[:HASH_DIGITS]
