"""What is fetched from the hub: configs, tokenizers and safetensors; no pickles, no code."""

import os
from pathlib import Path

_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


def find_snapshot(repository: str, *, is_offline: bool) -> Path:
    """Returns the folder of a repository's safe files, from the cache or the hub.

    Raises:
        FileNotFoundError: neither has it; says why in one line.
    """
    from huggingface_hub import snapshot_download

    is_offline = is_offline or os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
    try:
        return Path(snapshot_download(repository, allow_patterns=_FILES, local_files_only=is_offline))
    except Exception as error:  # the hub's client raises many kinds; all mean "not there"
        where = (
            "the hub's cache (offline: the hub was not asked)" if is_offline else f"the hub ({type(error).__name__})"
        )
        raise FileNotFoundError(f"not found in {where}") from None
