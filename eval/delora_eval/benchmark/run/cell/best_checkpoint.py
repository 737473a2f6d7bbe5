"""`checkpoint: best_held_out`: every cell chooses its step on some prompts and seeds, and is reported on the others."""

from dataclasses import replace

from delora_eval.benchmark.grid import Cell
from delora_eval.benchmark.run.cell.bench import Bench
from delora_eval.benchmark.settings import BenchmarkConfig, generate_settings
from delora_eval.choice.choose import DECIDED_HERE
from delora_eval.choice.prompts import split_prompts
from delora_eval.settings import ChooseConfig
from delora_sd.data.prompts import load_prompts
from delora_sd.data.subjects import class_facts
from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder
from delora_sd.settings import GenerateConfig


def check_references(config: BenchmarkConfig, cells: list[Cell]) -> None:
    """Raises UserError when held-out photos or checkpoints are asked for that no cell will have."""
    chooses = config.checkpoint == "best_held_out"
    wanted = "checkpoint: best_held_out" if chooses else f"references: {config.references}"
    trained = [cell for cell in cells if cell.train]
    if chooses or config.references != "trained":
        bare = next((cell for cell in trained if cell.train.data.hold_out < 1), None)
        if bare is not None or not trained:
            name = f"{bare.method} holds none out" if bare else "no cell is trained here"
            raise UserError(
                f"{wanted} needs photos that are not trained on, and {name}; give train: {{data.hold_out: 1}}"
            )
    if chooses:
        few = next((cell for cell in trained if len([step for step in cell.steps if step > 0]) < 2), None)
        if few is not None:
            raise UserError(f"{wanted} needs at least 2 checkpoints, {few.method} has {len(few.steps)}; give `steps`")
        cell_prompts(trained[0], generate_settings(config))


def keep_chosen(
    bench: Bench, cell: Cell, run: RunFolder, steps: list[int], shared: GenerateConfig
) -> tuple[list[int], GenerateConfig]:
    """Returns (the step that is reported, after the base model's where it is asked for; the settings of its images)."""
    own = [step for step in steps if step > 0]
    choosing, reporting = cell_prompts(cell, shared)
    if len(own) > 1:
        asked = {key: value for key, value in bench.config.generate.items() if key not in DECIDED_HERE}
        choice = bench.stages.choose(
            ChooseConfig(
                run=str(run.path),
                prompts=choosing,
                images_per_prompt=shared.images_per_prompt,
                seed=shared.seed,
                steps=tuple(own),
                protocol=bench.config.protocol[0],
                generate=asked,
                encoders=bench.config.encoders,
            )
        )
        own = [choice.step]
    return [step for step in steps if step == 0] + own, replace(shared, prompts=reporting)


def cell_prompts(cell: Cell, shared: GenerateConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the templates that choose a cell's step and those that report it."""
    data = cell.train.data
    class_word, is_live = class_facts(data)
    prompts = load_prompts(shared.prompts, identifier=data.identifier, class_word=class_word, is_live=is_live)
    return split_prompts([prompt.template for prompt in prompts])
