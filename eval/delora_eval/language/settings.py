"""Every setting of a language table. No torch here: `--help` and `--dry-run` answer at once."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class BenchmarksConfig:
    """Instructions: how a model is asked, through lm-eval's own tasks."""

    tasks: Literal["paper", "miniature"] = "paper"
    """paper: MMLU, ARC Challenge, TruthfulQA (mc1, mc2), zero-shot. miniature: the toy language's twins of them."""
    limit: int | None = None
    """Questions per task; none: all. A table of fewer is no result."""
    batch_size: int = 16
    adds_bos: bool = False
    """Put the start token before every question: lm-eval's default with LLaMA, not what the authors' wrapper did."""


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """Fine-tune language models with every method and report the paper's Table 4 (GLUE) or 5 (instructions)."""

    output_dir: str = ""
    """Folder of the table. The same command again resumes; several processes may share it."""
    title: str = "Language"
    """Headline of the page."""
    table: Literal["glue", "instructions"] = "glue"
    """glue: Table 4. instructions: Table 5."""
    paper: str | None = None
    """Show published rows beside ours: table4, table5; none: no such rows."""
    train: dict[str, Any] = field(default_factory=dict)
    """Settings of every fine-tuning that differ from the defaults: model., data., adapter., tuning.; nested or not."""
    methods: dict[str, Any] = field(default_factory=dict)
    """{name: settings}. A name that is a method needs none; else give adapter.method. Beside settings: `label`,
    `tasks: {task: settings}`, `tune: {setting: [values]}`, `scaled`. Any PEFT method: adapter.method: peft,
    adapter.peft_config: FILE."""
    tasks: tuple[str, ...] = ("mnli", "sst2", "mrpc", "cola", "qnli", "qqp", "rte", "stsb")
    """GLUE: the columns."""
    seeds: tuple[int, ...] = (42, 43, 44, 45, 46)
    """Seeds of the fine-tunings; every row is trained once with each."""
    factors: tuple[float, ...] = ()
    """Multiply the `scaled` settings of every method by each of these: the learning-rate robustness figure."""
    scaled: tuple[str, ...] = ("tuning.lr",)
    """What `factors` multiply; a method's own `scaled` takes its place."""
    protocol: Literal["authors", "clean"] = "authors"
    """GLUE: which halves of the public validation set choose and test. authors: as their code, another split for every
    seed. clean: one split (seed 42) for all, no half swapped, chosen by the reported metric."""
    choose: Literal["held_out", "benchmarks"] = "held_out"
    """Which value of `tune` a row shows. held_out: GLUE's validation half, the held-out instructions. benchmarks:
    instructions, the best mean of the very scores that are reported, as the authors; optimistic."""
    benchmarks: BenchmarksConfig = field(default_factory=BenchmarksConfig)
    keep_adapters: bool = True
    """Keep every fine-tuning's adapter and classifier; what `full` trains is never kept."""
