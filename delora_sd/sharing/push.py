"""`delora-sd push`: a run's card, exports, adapter and a few images to the hub. Private unless told otherwise."""

import re
from pathlib import Path
from typing import Any

from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder
from delora_sd.sharing.card import CARD, finished_run, widget_images, write_card
from delora_sd.sharing.settings import CardConfig, PushConfig

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def push(config: PushConfig) -> str:
    """Uploads the files in one commit; returns the address.

    Raises:
        UserError: no finished run, a name that exists and `update` is false, not logged in, or a hub that refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    run = _checked_run(config)
    files = files_to_push(_with_card(run, config))
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(file)) for name, file in files.items()]
    api = HfApi()
    _make_repository(api, config)
    message = f"{run.path.resolve().name}, with delora_sd"
    try:
        commit = api.create_commit(config.name, operations, commit_message=message, repo_type="model")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{config.name}: the upload failed ({_first_line(error)}), nothing was changed; try again with update=true"
        ) from None
    return str(commit.commit_url)


def describe_push(config: PushConfig) -> list[str]:
    """Returns what `--dry-run` says: a line per file, with its size; the hub is not asked and nothing is written."""
    run = _checked_run(config)
    files = files_to_push(run)
    lines = [f"{file.stat().st_size:>12,}  {name}" for name, file in files.items()]
    if CARD not in files:
        lines.insert(0, f"{'to be made':>12}  {CARD}")
    visibility = "private" if config.private else "public"
    return [*lines, f"to {config.name} ({visibility}); nothing was sent"]


def files_to_push(run: RunFolder) -> dict[str, Path]:
    """Returns {name on the hub: file}. No settings, manifest or photos: they name places and people of this machine."""
    files = {CARD: run.path / CARD}
    files |= {file.name: file for file in sorted(run.export.glob("[!.]*.safetensors"))}
    adapter = sorted(file for file in run.adapter.rglob("[!.]*") if file.suffix in (".json", ".safetensors"))
    files |= {f"adapter/{file.relative_to(run.adapter).as_posix()}": file for file in adapter}
    files |= {name: run.path / name for name in widget_images(run)}
    return {name: file for name, file in files.items() if file.is_file()}


def _checked_run(config: PushConfig) -> RunFolder:
    if not _NAME.fullmatch(config.name) or ".." in config.name or "--" in config.name:
        raise UserError(f"name: '{config.name}'; expected owner/name, such as me/rex")
    return finished_run(config.run)


def _with_card(run: RunFolder, config: PushConfig) -> RunFolder:
    """A card that lies there is sent as it is: its owner may have edited it."""
    if not (run.path / CARD).exists():
        write_card(CardConfig(run=config.run, licence=config.licence))
    return run


def _make_repository(api: Any, config: PushConfig) -> None:
    """Creates it, or takes one that is there when told to and when as visible as asked."""
    from huggingface_hub.errors import LocalTokenNotFoundError

    try:
        if not api.repo_exists(config.name, repo_type="model"):
            api.create_repo(config.name, private=config.private, repo_type="model", exist_ok=False)
            return
        is_private = bool(api.repo_info(config.name, repo_type="model").private)
    except LocalTokenNotFoundError:
        raise UserError("not logged in to the hub; run `hf auth login` once, or set HF_TOKEN") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{config.name}: the hub refuses ({_first_line(error)})") from None
    if not config.update:
        raise UserError(f"name: {config.name} exists already; give another name, or update=true to add a commit to it")
    if config.private and not is_private:
        raise UserError(f"name: {config.name} is public; private=false says that you mean it")


def _first_line(error: Exception) -> str:
    return (str(error).strip().split("\n")[0] or type(error).__name__)[:200]
