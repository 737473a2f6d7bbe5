"""What asked models said, word for word, beside the scores: `score_answers.jsonl`, a line per image and question."""

from pathlib import Path
from typing import Any

from delora_eval.scoring.inputs.task import Task
from delora_eval.scoring.judges.embedding import Judge, hash_files, use_weights
from delora_eval.scoring.judges.networks.weights import VLM
from delora_sd.files.run_folder import read_lines, write_lines


def answers_file(scores: Path) -> Path:
    """Returns where the answers behind a file of scores stand."""
    return scores.with_name(f"{scores.stem.removesuffix('s')}_answers.jsonl")


def write_answers(judge: Judge, task: Task) -> None:
    """Adds the answers about the task's images; those of the same model, judge, image and prompt are replaced."""
    fresh = _answers(judge, task)
    if not fresh:
        return
    file = answers_file(task.output)
    kept = {_place(line): line for line in read_lines(file)} | {_place(line): line for line in fresh}
    write_lines(file, list(kept.values()))


def _answers(judge: Judge, task: Task) -> list[dict[str, Any]]:
    images = [image.file for group in task.groups for images in group for image in images.images]
    names = dict(zip(hash_files(judge, images), images, strict=True))
    lines = []
    for place, answer in judge.kept.items():
        if place[:2] != (VLM, "answer") or place[3] not in names:
            continue
        _, _, name, key, prompt = place
        weights, file = use_weights(judge, VLM), names[key]
        lines.append(
            {
                "judge": name,
                "file": f"{file.parent.name}/{file.name}",
                "image": key,
                "prompt": prompt,
                "question": answer.question,
                "answer": answer.said,
                "probabilities": {word: round(value, 6) for word, value in answer.probabilities.items()},
                "encoder": weights.spec.id,
                "weights": weights.hash,
                "random_weights": weights.is_random,
            }
        )
    return lines


def _place(line: dict[str, Any]) -> tuple:
    return tuple(line.get(key) for key in ("judge", "image", "prompt", "encoder", "weights"))
