"""Settings nobody can mean."""

import os
from collections.abc import Callable

from bad_inputs.case import Case, World

BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\ndata: {class_word: *c}\n"


def given(*settings: str) -> Callable[[World], list[str]]:
    return lambda world: world.train(*settings)


def file(content: bytes | str) -> Callable[[World], list[str]]:
    """A training with a settings file of this content."""
    return lambda world: [*world.train(), str(world.path("my.yaml", content))]


def _folder_for_a_file(world: World) -> list[str]:
    (world.folder / "my.yaml").mkdir()
    return [*world.train(), str(world.folder / "my.yaml")]


def _pipe_for_a_file(world: World) -> list[str]:
    os.mkfifo(world.folder / "my.yaml")
    return [*world.train(), str(world.folder / "my.yaml")]


def _other_settings(world: World) -> list[str]:
    run = world.copy_of_run()
    return world.train(f"output_dir={run}", "training.num_steps=2", "adapter.method=lora", "adapter.rank=3")


REFUSED = (
    Case(
        name="a typo in a key", command=given("adapter.rnak=4"), says=("'adapter.rnak'", "did you mean 'adapter.rank'")
    ),
    Case(
        name="a typo in a file", command=file("adapter:\n  rnak: 4\n"), says=("my.yaml", "adapter.rnak", "adapter.rank")
    ),
    Case(
        name="a typo in a choice",
        command=given("adapter.init=miror"),
        says=("adapter.init", "mirrored", "found 'miror'"),
    ),
    Case(
        name="a word for a number", command=given("adapter.rank=four"), says=("adapter.rank", "whole number", "'four'")
    ),
    Case(
        name="a list for a number", command=given("adapter.rank=[4, 8]"), says=("adapter.rank", "whole number", "list")
    ),
    Case(
        name="an average that never learns",
        command=given("training.ema.decay=1"),
        says=("training.ema.decay: 1.0", "0 (no average) to below 1"),
    ),
    Case(name="a section for a value", command=file("seed: {a: 1}\n"), says=("my.yaml", "seed", "whole number")),
    Case(name="a value for a section", command=file("adapter: delora\n"), says=("my.yaml", "adapter", "rank")),
    Case(name="a list for a file", command=file("- seed\n- 1\n"), says=("my.yaml", "`key: value`", "a list of 2")),
    Case(
        name="more photos held out than can be spared",
        command=given("data.hold_out=3"),
        says=("data.hold_out: 3 of the 4 photos", "at least 2 must remain", "at most 2"),
    ),
    Case(
        name="two subjects",
        command=given("data.subject=dog", "data.dataset=miniature"),
        says=("data.subject=dog", "data.photos=", "both given", "give one"),
    ),
    Case(
        name="a key given twice",
        command=file("seed: 1\nseed: 2\n"),
        says=("my.yaml", "line 2", "'seed' is given twice"),
    ),
    Case(
        name="a key given flat and nested",
        command=file("adapter.rank: 4\nadapter: {rank: 8}\n"),
        says=("my.yaml", "'adapter.rank' is given twice"),
    ),
    Case(name="a YAML bomb", command=file(BOMB), says=("my.yaml", "line 2", "aliases", "write the value out")),
    Case(name="YAML nested too deep", command=file("[" * 20_000), says=("my.yaml", "nested deeper than 50")),
    Case(
        name="a Python object in YAML",
        command=file("seed: !!python/object/apply:os.system ['touch owned']\n"),
        says=("my.yaml", "line 1", "tags", "not accepted"),
    ),
    Case(name="YAML that is none", command=file("a: [1\nb: }\n"), says=("my.yaml", "line 2", "not valid YAML")),
    Case(
        name="bytes that are no text", command=file(b"\xff\xfe\0seed"), says=("my.yaml", "cannot be read", "position 4")
    ),
    Case(name="a NUL in YAML", command=file("seed: 1\0\n"), says=("my.yaml", "not valid YAML")),
    Case(name="a settings file of 2 MB", command=file(b"#" * 2_000_000), says=("my.yaml", "2000000 bytes", "at most")),
    Case(
        name="a folder in place of a settings file",
        command=_folder_for_a_file,
        says=("my.yaml", "cannot be read", "not a file"),
    ),
    Case(
        name="a pipe in place of a settings file",
        command=_pipe_for_a_file,
        says=("my.yaml", "cannot be read", "not a file"),
    ),
    Case(
        name="a settings file that does not exist",
        command=lambda world: [*world.train(), "../nowhere/my.yaml"],
        says=("../nowhere/my.yaml", "does not exist"),
    ),
    Case(
        name="a rank of a billion",
        command=given("adapter.rank=1000000000"),
        says=("adapter.rank", "1000000000", "above"),
    ),
    Case(
        name="a number with 400 digits",
        command=given("seed=" + "9" * 400),
        says=("seed", "whole number", "400 characters"),
    ),
    Case(
        name="a batch of a trillion photos",
        command=given("training.batch_size=1000000000000"),
        says=("training.batch_size", "at most"),
    ),
    Case(
        name="a trillion class images",
        command=given("training.num_class_images=1000000000000", "training.prior_weight=1"),
        says=("training.num_class_images", "at most"),
    ),
    Case(
        name="a trillion images per prompt",
        command=lambda world: world.generate("images_per_prompt=1000000000000"),
        says=("images_per_prompt", "at most"),
    ),
    Case(
        name="a size of a million pixels a side",
        command=given("model.size_px=1000000"),
        says=("model.size_px", "at most"),
    ),
    Case(
        name="a learning rate that is not a number", command=given("optimizer.lr=nan"), says=("optimizer.lr", "'nan'")
    ),
    Case(name="an infinite boundary", command=given("adapter.boundary=1e999"), says=("adapter.boundary", "'1e999'")),
    Case(
        name="an infinite number in YAML",
        command=file("optimizer: {lr: .inf}\n"),
        says=("my.yaml", "optimizer.lr", ".inf"),
    ),
    Case(
        name="negative steps", command=given("training.num_steps=-5"), says=("training.num_steps", "-5", "at least 1")
    ),
    Case(name="no photo per step", command=given("training.batch_size=0"), says=("training.batch_size", "at least 1")),
    Case(name="a negative rank", command=given("adapter.rank=-1"), says=("adapter.rank", "-1", "at least 1")),
    Case(
        name="betas of three numbers",
        command=given("optimizer.betas=[0.1, 0.2, 0.3]"),
        says=("optimizer.betas", "2 values"),
    ),
    Case(
        name="an unknown method",
        command=given("adapter.method=delorra"),
        says=("adapter.method", "did you mean 'delora'"),
    ),
    Case(
        name="a rank that no layer has",
        command=given("adapter.rank=20", "training.prior_weight=1", "training.num_class_images=500"),
        says=("adapter.rank", "20 is above the 16 of layer"),
    ),
    Case(
        name="layers the model does not have",
        command=given("adapter.target_modules=[to_nowhere]", "training.prior_weight=1"),
        says=("adapter.target_modules", "to_nowhere"),
    ),
    Case(
        name="a pattern that is no regular expression",
        command=given("adapter.rank_pattern={'(': 4}"),
        says=("adapter.rank_pattern", "'('", "regular expression"),
    ),
    Case(name="an identifier of nothing", command=given("data.identifier= "), says=("data.identifier", "empty", "qwe")),
    Case(
        name="a caption without the identifier",
        command=given("data.instance_template=a photo of a dog"),
        says=("data.instance_template", "{identifier}"),
    ),
    Case(name="no output folder", command=given("output_dir="), says=("output_dir", "missing", "runs/dog")),
    Case(
        name="a file in place of the output folder",
        command=lambda world: world.train(f"output_dir={world.path('out', b'mine')}"),
        says=("out", "file", "folder"),
    ),
    Case(
        name="other settings in the same folder", command=_other_settings, says=("run", "adapter.rank=2", "now it is 3")
    ),
    Case(name="an unknown flag", command=lambda world: [*world.train(), "--rank"], says=("'--rank'", "key=value")),
    Case(name="an unknown command", command=lambda world: ["trian"], says=("unknown command 'trian'", "'train'")),
    Case(name="a word without a key", command=lambda world: [*world.train(), "dog"], says=("'dog'", "key=value")),
)

ACCEPTED = (
    Case(name="a path with ..", command=lambda world: world.train(f"output_dir={world.folder}/x/../out")),
    Case(
        name="brackets in a path",
        command=lambda world: world.train(f"output_dir={world.folder}/[bold]my [/dog]"),
    ),
)
