"""What a run was made from, by contents: what its manifest says against what lies there now."""

from pathlib import Path

from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder


def absolute_place(path: str) -> str:
    """Returns a path that means the same from any folder. Links are left as the user named them."""
    return str(Path(path).expanduser().absolute())


def check_base(run: RunFolder, *, name: str, fingerprint: str, advice: str) -> None:
    """Raises UserError when the run was trained on a base with other contents; a run that knows no hash takes any."""
    recorded = run.read_manifest().get("base", {})
    known = recorded.get("fingerprint")
    if known and known != fingerprint:
        raise UserError(
            f"model.base={name} is not what {run.path} was trained on ({recorded.get('id', name)}): "
            f"its files have the SHA-256 {fingerprint[:12]}, the run's had {known[:12]}; {advice}"
        )
