"""Commands on folders that are not theirs, on damaged ones, and benchmark grids that cannot be."""

import json
from collections.abc import Callable
from pathlib import Path

from bad_inputs.case import Case, World
from bad_inputs.photos import damaged_image


def run(change: Callable[[Path], object], *words: str) -> Callable[[World], list[str]]:
    """A command on a copy of the finished run that `change` spoiled; {run} in the words is its folder."""

    def command(world: World) -> list[str]:
        folder = world.copy_of_run()
        change(folder)
        return [word.format(run=folder, out=world.out) for word in words]

    return command


def nothing(folder: Path) -> None:
    pass


def listing(**values) -> Callable[[Path], None]:
    """Changes the first line of the run's images.jsonl."""

    def change(folder: Path) -> None:
        file = min(folder.glob("images/*/images.jsonl"))
        first, *others = file.read_text().splitlines()
        file.write_text("\n".join([json.dumps(json.loads(first) | values), *others]) + "\n")

    return change


def torn(name: str) -> Callable[[Path], None]:
    """Puts a line that is no JSON into the middle of a file."""

    def change(folder: Path) -> None:
        file = min(folder.glob(name))
        lines = file.read_text().splitlines()
        file.write_text("\n".join([lines[0], "{not json", *lines[1:]]) + "\n")

    return change


def replaced(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: min(folder.glob(name)).write_text(text) and None


def benchmark(*settings: str) -> Callable[[World], list[str]]:
    def command(world: World) -> list[str]:
        usual = [
            "train.model.base=miniature",
            "train.data.dataset=miniature",
            "subjects=dog",
            "methods.lora.adapter.rank=2",
        ]
        given = {setting.partition("=")[0] for setting in settings}
        usual = [word for word in usual if word.partition("=")[0] not in given]
        return ["benchmark", f"output_dir={world.out}", *usual, *settings]

    return command


def _two_bases(world: World) -> list[str]:
    return benchmark(f"methods.delora.model.base={world.base}")(world)


def _somebody_elses(world: World) -> list[str]:
    world.path("out/thesis.tex", "mine")
    return benchmark()(world)


def _other_grid(world: World) -> list[str]:
    world.path("out/benchmark.yaml", f"output_dir: {world.out}\ntrain: {{training: {{num_steps: 7}}}}\n")
    return benchmark()(world)


def _plan(text: str) -> Callable[[World], list[str]]:
    def command(world: World) -> list[str]:
        world.path("out/benchmark.yaml", f"output_dir: {world.out}\n")
        world.path("out/plan.json", text)
        return ["status", str(world.out)]

    return command


CELL_ELSEWHERE = json.dumps(
    {"tune": [], "test": [{"id": "../../secret", "method": "lora", "subject": "dog", "seed": 0, "steps": [1]}]}
)

REFUSED = (
    Case(
        name="generate on a folder that is no run",
        command=lambda world: world.generate(f"run={world.photos}"),
        says=("run=", "neither a run folder (config.yaml) nor a PEFT folder"),
    ),
    Case(
        name="generate on nothing",
        command=lambda world: world.generate("run=/nowhere"),
        says=("run=/nowhere", "no such"),
    ),
    Case(
        name="generate on a run that is not finished",
        command=run(lambda folder: (folder / "adapter").rename(folder / "gone"), "generate", "{run}"),
        says=("training is not finished", "step=N", "checkpoints: 1, 2"),
    ),
    Case(
        name="generate at a step that is not there",
        command=lambda world: world.generate("step=77"),
        says=("step=77", "it has: 1, 2"),
    ),
    Case(
        name="generate with an average that is not there",
        command=lambda world: world.generate("average=../adapter"),
        says=("average=../adapter", "it has: none", "training.ema.decay", "delora-sd average"),
    ),
    Case(
        name="an average of a run into a name that leaves its folder",
        command=run(lambda folder: None, "average", "{run}", "name=../adapter"),
        says=("name: '../adapter'", "letters, digits"),
    ),
    Case(name="a strength above 2", command=lambda world: world.generate("strength=3"), says=("strength", "3", "to 2")),
    Case(
        name="an extra adapter that does not exist",
        command=lambda world: world.generate("extra_adapters={/nowhere/x: 1.0}"),
        says=("/nowhere/x", "does not exist"),
    ),
    Case(
        name="a manifest without the subject",
        command=run(replaced("manifest.json", '{"format": 1}'), "generate", "{run}"),
        says=("manifest.json", "subject"),
    ),
    Case(
        name="a manifest that is no JSON",
        command=run(replaced("manifest.json", "{"), "generate", "{run}"),
        says=("manifest.json", "not valid JSON"),
    ),
    Case(
        name="a run of another version",
        command=run(replaced("manifest.json", '{"format": 99}'), "score", "{run}", "protocol=miniature"),
        says=("format 99", "reads format 1"),
    ),
    Case(
        name="a run config with a setting nobody knows",
        command=run(replaced("config.yaml", "adapter: {wings: 2}\n"), "report", "{run}"),
        says=("config.yaml", "unknown setting 'adapter.wings'"),
    ),
    Case(
        name="score on a folder that is no run",
        command=lambda world: ["score", str(world.photos)],
        says=("not a run folder", "reference="),
    ),
    Case(name="score with nothing named", command=lambda world: ["score"], says=("what to score", "reference=PHOTOS")),
    Case(
        name="a listed image that is gone",
        command=run(lambda folder: min(folder.glob("images/*/*.png")).unlink(), "score", "{run}", "protocol=miniature"),
        says=("1 of 2 listed images are missing", "generate"),
    ),
    Case(
        name="an image that was cut off",
        command=run(lambda folder: damaged_image(folder) and None, "score", "{run}", "protocol=miniature"),
        says=(".png", "damaged", "delete it"),
    ),
    Case(
        name="a listing that names files elsewhere",
        command=run(listing(file="../../../secret.png"), "score", "{run}", "protocol=miniature"),
        says=("images.jsonl", "line 1", "'../../../secret.png'", "in its folder"),
    ),
    Case(
        name="a listing that names an absolute path, reported",
        command=run(listing(file="/etc/passwd"), "report", "{run}"),
        says=("images.jsonl", "line 1", "'/etc/passwd'", "in its folder"),
    ),
    Case(
        name="a listing without names",
        command=run(
            replaced("images/*/images.jsonl", '{"seed": 0}\n{"seed": 1}\n'), "score", "{run}", "protocol=miniature"
        ),
        says=("images.jsonl", "line 1", "file"),
    ),
    Case(
        name="a listing with a prompt of numbers",
        command=run(listing(prompt=[1, 2]), "report", "{run}"),
        says=("images.jsonl", "line 1", "prompt"),
    ),
    Case(
        name="a torn listing",
        command=run(torn("images/*/images.jsonl"), "score", "{run}", "protocol=miniature"),
        says=("images.jsonl, line 2", "not a JSON"),
    ),
    Case(
        name="torn events",
        command=run(torn("events.jsonl"), "report", "{run}"),
        says=("events.jsonl, line 2", "delete that line"),
    ),
    Case(
        name="scores of another program",
        command=run(replaced("scores.jsonl", '{"a": 1}\n'), "report", "{run}"),
        says=("scores.jsonl", "line 1", "score again"),
    ),
    Case(
        name="report on a folder that is no run",
        command=lambda world: ["report", str(world.photos)],
        says=("not a run folder", "train first"),
    ),
    Case(
        name="export on a folder that is no adapter",
        command=lambda world: ["export", str(world.photos)],
        says=("is no adapter", "adapter_config.json"),
    ),
    Case(
        name="export into a file of another kind",
        command=lambda world: ["export", str(world.finished_run), f"output={world.out}.ckpt"],
        says=("output", "ends with .safetensors"),
    ),
    Case(
        name="merge without an output",
        command=lambda world: ["merge", str(world.finished_run)],
        says=("output: missing", "RUN FOLDER"),
    ),
    Case(
        name="merge into somebody's folder",
        command=lambda world: ["merge", str(world.finished_run), str(world.path("thesis/a.tex", "mine").parent)],
        says=("/thesis", "something else", "new folder"),
    ),
    Case(
        name="status on a folder that is no benchmark",
        command=lambda world: ["status", str(world.photos)],
        says=("not a benchmark folder", "run `delora-sd benchmark`"),
    ),
    Case(name="a plan that is no plan", command=_plan('["cells"]'), says=("plan.json", "benchmark")),
    Case(name="a plan with a cell elsewhere", command=_plan(CELL_ELSEWHERE), says=("plan.json", "'../../secret'")),
    Case(
        name="a benchmark in somebody's folder",
        command=_somebody_elses,
        says=("output_dir", "holds something else", "empty"),
    ),
    Case(
        name="a benchmark in the folder of another grid",
        command=_other_grid,
        says=("another grid", "use another output_dir"),
    ),
    Case(
        name="a grid of 0 cells",
        command=lambda world: ["benchmark", f"output_dir={world.out}", "train.data.dataset=miniature"],
        says=("0 cells", "methods is empty", "at least one"),
    ),
    Case(
        name="an axis without values",
        command=benchmark("matrix={adapter.rank: []}"),
        says=("matrix.adapter.rank", "0 cells"),
    ),
    Case(
        name="an unknown method in a grid",
        command=benchmark("methods.delorra.adapter.rank=2"),
        says=("methods.delorra", "did you mean 'delora'"),
    ),
    Case(name="an unknown subject in a grid", command=benchmark("subjects=dgo"), says=("subjects", "'dgo'", "'dog'")),
    Case(
        name="a method named like a path", command=benchmark("methods.../x.adapter.rank=2"), says=("methods.", "name")
    ),
    Case(
        name="two base models in one table",
        command=_two_bases,
        says=("one table needs one model.base", "a benchmark for each"),
    ),
    Case(
        name="a typo in a grid's training",
        command=benchmark("train.adapter.rnak=2"),
        says=("train", "adapter.rnak", "adapter.rank"),
    ),
    Case(name="a share of nothing", command=benchmark("shard=3/2"), says=("shard", "3/2")),
)
