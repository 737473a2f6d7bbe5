"""Every setting of one fine-tuning of a language model. No torch here: `--help` answers at once."""

from dataclasses import dataclass, field
from typing import Literal

from delora_sd.settings import AdapterConfig


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    base: str = "FacebookAI/roberta-base"
    """`miniature` (bundled, offline), a local folder in the layout of transformers, or a hub id; weights are read from
    .safetensors alone."""
    revision: str | None = None
    """Branch, tag or commit on the hub; none: the default branch."""
    offline: bool = False
    """Never touch the network; use only what is bundled, local or already cached. Holds for data, too."""
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the frozen base. auto: fp32 for GLUE, as the authors; for instructions bf16 on a GPU that has it.
    Adapter parameters are always fp32."""
    quantization: Literal["none", "int8", "int4"] = "none"
    """Instructions: store the frozen linear weights in 8 or 4 bits (extra: pip install delora_sd[quantize])."""


@dataclass(frozen=True, kw_only=True)
class LanguageDataConfig:
    glue: str = "nyu-mll/glue"
    """GLUE: a hub id, a local folder (a layout of `datasets`, or TASK/SPLIT.jsonl, .csv, .parquet), or `miniature`."""
    instructions: str = "yahma/alpaca-cleaned"
    """Instructions: a hub id, a .json file of records with instruction, input and output, or `miniature`. The authors'
    file is `alpaca_data_cleaned_archive.json` of alpaca-lora."""
    held_out: int = 2000
    """Instructions: records kept to choose by, drawn with seed 42 as the authors'."""
    loss_on: Literal["all", "answer"] = "all"
    """Instructions: all tokens, the prompt's too, as the authors; or the answer's alone."""


@dataclass(frozen=True, kw_only=True)
class TuningConfig:
    lr: float | None = None
    """Learning rate of the adapter's directions and of the classifier; none: the method's (`delora-sd methods`)."""
    boundary_lr: float = 1e-3
    """Learning rate of DeLoRA's boundary."""
    head_lr: float | None = None
    """Learning rate of the classifier; none: `lr`, as the authors (3e-2 on MRPC)."""
    weight_decay: float = 1e-2
    """Decoupled weight decay of all that is trained but biases; of the boundary, too, as in the authors' GLUE code."""
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float = 0.0
    """Largest gradient norm; 0 switches clipping off."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How the learning rate goes on after the warmup; linear and cosine end at 0."""
    warmup_share: float = 0.06
    """Share of all steps in which the learning rate rises from 0; `warmup_steps` takes its place."""
    warmup_steps: int | None = None
    batch_size: int = 32
    gradient_accumulation: int = 1
    """Split each step's batch into this many parts to save memory."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    num_epochs: float = 30.0
    dropout: float = 0.0
    """Share of the adapter's input that is set to zero in training, element by element; the frozen layer sees all."""
    max_tokens: int = 256
    """Longer texts are cut. GLUE: 256 is what the authors' code does; the paper says 512."""
    eval_batch_size: int = 64


@dataclass(frozen=True, kw_only=True)
class LanguageTraining:
    """All that one fine-tuning depends on: the resolved settings beside its result."""

    seed: int = 42
    """Decides the adapter's start, the classifier's, the order of the data and dropout."""
    task: str = "rte"
    """One of GLUE's: mnli, sst2, mrpc, cola, qnli, qqp, rte, stsb; or `instructions`."""
    model: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    data: LanguageDataConfig = field(default_factory=LanguageDataConfig)
    adapter: AdapterConfig = field(default_factory=lambda: AdapterConfig(rank=8, target_modules=()))
    """`adapter.target_modules` none, `[]`: the query and value layers, by their names in the model's family."""
    tuning: TuningConfig = field(default_factory=TuningConfig)
