"""What is fuzzed: for each reader, good files to start from, how a case is drawn from them, and what reads it."""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from delora_sd.config.load import load_config, to_yaml
from fuzz_mutations import SCALARS, TOKENS, dump, mutate_bytes, mutate_json, mutate_text
from fuzz_seeds import adapter_files, benchmark_files, run_files, small_unet

CONFIGS = Path(__file__).parents[2] / "configs"


@dataclass(frozen=True, kw_only=True)
class Case:
    """Files of one case, by name in its folder, and words for the reader: overrides, or which reader."""

    files: dict[str, bytes]
    changed: str
    """Name of the file that is not as it should be."""
    words: tuple[str, ...] = field(default=())

    def smaller(self) -> Iterator["Case"]:
        """Yields cases with a word or a piece of the changed file less, the smallest first."""
        for index in range(len(self.words) - 1, 0, -1):
            yield replace(self, words=self.words[:index] + self.words[index + 1 :])
        content = self.files[self.changed]
        for parts in (2, 4, 8, 16):
            step = len(content) // parts + 1
            for start in range(0, len(content), step):
                yield replace(self, files=self.files | {self.changed: content[:start] + content[start + step :]})


@dataclass(frozen=True, kw_only=True)
class Target:
    """One reader."""

    name: str
    draw: Callable[[random.Random], Case]
    run: Callable[[Path, tuple[str, ...]], None]
    """Reads the case in its folder. May raise UserError; nothing else."""


def draw_settings(chance: random.Random) -> Case:
    """A shipped config, changed as text, and up to three overrides."""
    file = chance.choice(_configs())
    text = file.read_text(encoding="utf-8")
    text = mutate_text(text, chance) if chance.random() < 0.8 else text
    content = text.encode("utf-8", "surrogatepass")
    content = mutate_bytes(content, chance) if chance.random() < 0.1 else content
    overrides = tuple(_override(file.parent.name, chance) for _ in range(chance.randint(0, 3)))
    return Case(files={"a.yaml": content}, changed="a.yaml", words=(file.parent.name, *overrides))


def read_settings(folder: Path, words: tuple[str, ...]) -> None:
    """Loads, writes, loads again, and asks the door whether such a run can be."""
    schema = _schemas()[words[0]]
    config = load_config(schema, [folder / "a.yaml"], list(words[1:]))
    (folder / "again.yaml").write_bytes(to_yaml(config).encode("utf-8", "backslashreplace"))
    if load_config(schema, [folder / "again.yaml"], []) != config:
        raise AssertionError("written and read again, the settings differ")
    _ask_the_door(config, words[0])


def draw_adapter(chance: random.Random) -> Case:
    """One file of an adapter in some layout is changed: its header, its metadata, its settings, or its bytes."""
    files = dict(adapter_files())
    layout = chance.choice(sorted({name.split("/")[0] for name in files}))
    files = {name: content for name, content in files.items() if name.split("/")[0] == layout}
    name = chance.choice(sorted(files))
    files[name] = (
        _mutate_tensors(files[name], chance) if name.endswith(".safetensors") else _mutate_file(files[name], chance)
    )
    return Case(files=files, changed=name, words=(layout,))


def read_adapter(folder: Path, words: tuple[str, ...]) -> None:
    """Merges the adapter into a small UNet, and makes a plain LoRA of it."""
    from delora_sd.adapters.exchange.export.as_lora import plain_lora_of
    from delora_sd.adapters.exchange.merge.merging import merged_adapters

    path = folder / words[0]
    with merged_adapters(small_unet(), {path: 1.0}):
        pass
    if words[0] in _WITHOUT_BASE:
        plain_lora_of(path, strength=1.0, rank=2)


_WITHOUT_BASE = ("lora", "delora", "peft_delora")
"""Exported without a base model, in milliseconds."""


def draw_run(chance: random.Random) -> Case:
    """One file of a finished run is changed; one of the stages reads it."""
    return _draw_records(dict(run_files()), ("page", "sets", "generate", "resume"), chance)


def read_run(folder: Path, words: tuple[str, ...]) -> None:
    """Does what a stage does before any model loads."""
    from fuzz_readers import READERS

    READERS[words[0]](folder / "run")


def draw_benchmark(chance: random.Random) -> Case:
    return _draw_records(dict(benchmark_files()), ("benchmark",), chance)


TARGETS = {
    target.name: target
    for target in (
        Target(name="settings", draw=draw_settings, run=read_settings),
        Target(name="adapters", draw=draw_adapter, run=read_adapter),
        Target(name="runs", draw=draw_run, run=read_run),
        Target(name="benchmarks", draw=draw_benchmark, run=read_run),
    )
}


def _draw_records(files: dict[str, bytes], readers: tuple[str, ...], chance: random.Random) -> Case:
    name = chance.choice(sorted(name for name in files if not name.endswith(".png")))
    files[name] = _mutate_file(files[name], chance)
    return Case(files=files, changed=name, words=(chance.choice(readers),))


def _mutate_file(content: bytes, chance: random.Random) -> bytes:
    """JSON and JSON lines mostly stay JSON: else nothing behind the parser would be reached."""
    how = chance.random()
    if how < 0.1:
        return mutate_bytes(content, chance)
    if how < 0.25:
        return mutate_text(content.decode("utf-8"), chance).encode("utf-8", "surrogatepass")
    text = content.decode("utf-8")
    try:
        return dump(mutate_json(json.loads(text), chance)).encode()
    except ValueError:
        pass
    lines = text.splitlines()
    index = chance.randrange(len(lines))
    try:
        lines[index] = dump(mutate_json(json.loads(lines[index]), chance))
    except ValueError:
        return mutate_text(text, chance).encode("utf-8", "surrogatepass")
    return ("\n".join(lines) + "\n").encode("utf-8")


def _mutate_tensors(content: bytes, chance: random.Random) -> bytes:
    """A safetensors file with another header, other metadata, or other bytes."""
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    how = chance.random()
    if how < 0.25:
        return mutate_bytes(content, chance)
    metadata = header.get("__metadata__", {})
    own = [key for key in metadata if metadata[key].startswith("{")]
    if how < 0.6 and own:
        key = chance.choice(own)
        metadata[key] = dump(mutate_json(json.loads(metadata[key]), chance))
    elif how < 0.8:
        name = chance.choice([name for name in header if name != "__metadata__"])
        header[chance.choice((mutate_text(name, chance), name + ".x", "../" + name))] = header.pop(name)
    else:
        header = mutate_json(header, chance)
    text = dump(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def _override(kind: str, chance: random.Random) -> str:
    key = chance.choice(_keys(kind))
    key = mutate_text(key, chance) if chance.random() < 0.1 else key
    value = str(chance.choice((*SCALARS, *TOKENS)))
    if chance.random() < 0.3:
        value = chance.choice(("[{}]", "{{a: {}}}", '"{}"', "{}, {}")).format(value, value)
    return f"{key}={value}"


def _ask_the_door(config, kind: str) -> None:
    from delora_eval.benchmark.grid import test_cells
    from delora_sd.data.prompts import load_prompts
    from delora_sd.training.before.door import check_config

    if kind == "train":
        check_config(replace(config, output_dir=config.output_dir or "x"))
    elif kind == "benchmark":
        test_cells(config)
    else:
        prompts = tuple(prompt for prompt in config.prompts if not prompt.endswith(".txt"))
        load_prompts(prompts, identifier="qwe", class_word="dog", is_live=True)


@cache
def _configs() -> list[Path]:
    return sorted(file for kind in _schemas() for file in (CONFIGS / kind).glob("*.yaml"))


@cache
def _schemas() -> dict[str, type]:
    from delora_eval.benchmark.settings import BenchmarkConfig
    from delora_sd.settings import GenerateConfig, TrainConfig

    return {"train": TrainConfig, "generate": GenerateConfig, "benchmark": BenchmarkConfig}


@cache
def _keys(kind: str) -> list[str]:
    from delora_sd.config.load import describe

    return [key for key, _, _ in describe(_schemas()[kind])]
