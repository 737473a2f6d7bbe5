"""What is fetched from the hub: configs, tokenizers and safetensors; no pickles, no code."""

import os
from pathlib import Path

_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


def find_model_folder(name: str, *, is_offline: bool, revision: str | None = None) -> Path:
    """Returns a local folder as it is, else the safe files of the hub's repository of that name and revision.

    Raises:
        FileNotFoundError: a path where no folder is, or a repository that is not to be had; says why in one line.
    """
    local = Path(name).expanduser()
    if local.is_dir():
        return local
    if name.startswith(("/", "~", ".")):
        raise FileNotFoundError("no such folder")
    return _find_snapshot(name, is_offline=is_offline, revision=revision)


def _find_snapshot(repository: str, *, is_offline: bool, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    is_offline = is_offline or os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
    try:
        return Path(
            snapshot_download(repository, revision=revision, allow_patterns=_FILES, local_files_only=is_offline)
        )
    except Exception as error:  # the hub's client raises many kinds; all mean "not there"
        where = (
            "the hub's cache (offline: the hub was not asked)" if is_offline else f"the hub ({type(error).__name__})"
        )
        raise FileNotFoundError(f"not found in {where}") from None
