"""What each judge costs, written beside the scores: seconds in its network, images it looked at, on which device."""

from pathlib import Path
from typing import Any

from delora_eval.scoring.judges.embedding import Judge
from delora_eval.scoring.judges.networks.encoders import pick_device
from delora_sd.errors import UserError
from delora_sd.files.run_folder import read_json, write_json

Spent = dict[str, tuple[float, int]]
"""{encoder: (seconds, images)}."""


def costs_file(scores: Path) -> Path:
    """Returns where the costs of a file of scores stand: `score_costs.json` for `scores.jsonl`."""
    return scores.with_name(f"{scores.stem.removesuffix('s')}_costs.json")


def spent_so_far(judge: Judge) -> Spent:
    """Returns what every encoder has cost since the judge was made."""
    return {encoder: (judge.seconds[encoder], judge.seen[encoder]) for encoder in judge.seconds}


def add_costs(judge: Judge, before: Spent, scores: Path) -> None:
    """Adds what was spent since `before` to the file beside the scores; nothing spent leaves it as it is."""
    costs, device, fresh = read_costs(scores), str(pick_device(judge.config.device)), {}
    for encoder, (seconds, images) in spent_so_far(judge).items():
        earlier = before.get(encoder, (0.0, 0))
        if images > earlier[1]:
            known = costs.get(encoder, {"seconds": 0.0, "images": 0})
            fresh[encoder] = {
                "seconds": round(known["seconds"] + seconds - earlier[0], 3),
                "images": known["images"] + images - earlier[1],
                "device": device,
            }
    if fresh:
        write_json(costs_file(scores), costs | fresh)


def read_costs(scores: Path) -> dict[str, dict[str, Any]]:
    """Returns {encoder: {seconds, images, device}}, {} before any judge's cost was written.

    Raises:
        UserError: a file that is not ours.
    """
    file = costs_file(scores)
    if not file.exists():
        return {}
    costs, keys = read_json(file), {"seconds", "images", "device"}
    is_ours = isinstance(costs, dict) and all(isinstance(cost, dict) and keys <= cost.keys() for cost in costs.values())
    if not is_ours:
        raise UserError(f"{file}: not the costs of judges; delete it")
    return costs


def render_costs(costs: dict[str, dict[str, Any]]) -> str:
    """Returns one line per encoder: `dreamsim/ensemble  0.412 s an image (cpu, 158 images)`."""
    width = max(map(len, costs), default=0)
    return "\n".join(
        f"{encoder.ljust(width)}  {cost['seconds'] / max(cost['images'], 1):.3f} s an image "
        f"({cost['device']}, {cost['images']} images)"
        for encoder, cost in costs.items()
    )
