"""One worker's view of a benchmark: settings, folder, the three stages and the display."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delora_eval.benchmark.folder import BenchmarkFolder
from delora_eval.benchmark.run.live import Display
from delora_eval.benchmark.run.packs import Measure
from delora_eval.benchmark.settings import BenchmarkConfig
from delora_eval.settings import ChooseConfig, ScoreConfig
from delora_sd.settings import GenerateConfig, TrainConfig


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The three functions a cell goes through, and what a pack needs; tests give their own."""

    measure: Measure
    train: Callable[[list[TrainConfig]], Any]
    generate: Callable[[GenerateConfig], Path]
    """Returns the folder of the image set."""
    score: Callable[[ScoreConfig], Any]
    choose: Callable[[ChooseConfig], Any]
    """Returns the `choice.choose.Choice` among the checkpoints of a run."""


@dataclass(kw_only=True)
class Bench:
    """One worker's view of a benchmark."""

    config: BenchmarkConfig
    folder: BenchmarkFolder
    stages: Stages
    display: Display
    pack_size: int = 1
    """Falls when a pack did not fit."""
