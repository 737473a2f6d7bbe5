"""Every setting of a benchmark. No torch here: `--help` and `--dry-run` answer at once."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from delora_eval.settings import EncoderConfig, FamilyConfig
from delora_sd.config.overlay import with_settings
from delora_sd.errors import UserError
from delora_sd.files.contents import absolute_place
from delora_sd.settings import GenerateConfig

CheckpointRule = Literal["fixed_step", "best_step_per_method", "best_step_per_prompt", "best_held_out"]
References = Literal["trained", "held_out", "both"]

DECIDED_BY_THE_GRID = ("run", "output_dir", "step", "strength", "extra_adapters")


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """Search settings on a few subjects first; the best setting of each method goes to the test on all of them."""

    matrix: dict[str, Any] = field(default_factory=dict)
    """{setting: [values]} to search for every method; a method's own `tune` takes its place. Empty: no search."""
    subjects: tuple[str, ...] = ("first 3",)
    """Subjects of the search. The paper: the first 3 (App. B)."""
    seeds: tuple[int, ...] = (0,)
    """Training seeds of the search; every trial is trained once with each."""
    choose: str = "dino"
    """The score that decides, such as dino, clip_i, clip_t: best mean over subjects and seeds."""


@dataclass(frozen=True, kw_only=True)
class RayConfig:
    """`launcher=ray`: where packs run on a Ray cluster."""

    address: str = "auto"
    """`auto`: the cluster this machine belongs to; else its address."""
    cpus: float = 1.0
    """CPU cores of one pack."""
    gpus: float = 1.0
    """GPUs of one pack, fractions allowed; 0: packs run on CPUs."""
    retries: int = 3
    """How often a pack is started again elsewhere when its worker or node is lost."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Train, generate and score a grid of methods x subjects x seeds x settings, then report it."""

    output_dir: str = ""
    """Folder of the benchmark. The same command again resumes; finished cells are skipped."""
    title: str = "Benchmark"
    """Headline of the report."""
    paper: str | None = None
    """Show the paper's rows beside ours: table1, table3, table10, fig2, ... none: no such rows."""
    train: dict[str, Any] = field(default_factory=dict)
    """Settings of every training that differ from the defaults (`delora-sd train --help`), nested or dotted."""
    methods: dict[str, Any] = field(default_factory=dict)
    """{name: settings}. A name that is a method needs none; else give adapter.method or a `preset` (YAML file).
    Beside training settings: `label`, `matrix`, `tune`, `scaled`. Images made elsewhere, one folder per subject:
    {method: images, path: FOLDER, prompts: FILE}. Any PEFT method: adapter.method: peft, adapter.peft_config: FILE."""
    subjects: tuple[str, ...] = ("all",)
    """Names, `all`, or `first N` of the dataset's alphabetical list."""
    seeds: tuple[int, ...] = (0,)
    """Training seeds; every row is trained once with each."""
    matrix: dict[str, Any] = field(default_factory=dict)
    """{setting: [values]}: every combination becomes a row, for every method."""
    factors: tuple[float, ...] = ()
    """Multiply the `scaled` settings of every method by each of these: learning-rate sweeps."""
    scaled: tuple[str, ...] = ("optimizer.lr",)
    """What `factors` multiply; a method's own `scaled` takes its place."""
    steps: tuple[int, ...] = ()
    """Checkpoints that are generated and scored, 0 being the base model; none: the last step alone."""
    checkpoint: CheckpointRule = "fixed_step"
    """Which step a table shows. fixed_step: the last. best_step_per_method: the step with the best mean DINO of the
    method. best_step_per_prompt: the best of each prompt (Table 1 of OFT; optimistic, because it picks among noise).
    best_held_out: the step of every cell that the command `choose` finds among `steps`, on every fifth prompt and other
    seeds; the other prompts are reported. Needs train.data.hold_out."""
    references: References = "trained"
    """Photos that tables and figures lead with. trained: those the subject was learned from, as the paper does.
    held_out: those it was not (train.data.hold_out). both: side by side."""
    copy_risk: bool = False
    """Also look for whole photos and parts of them in the images (`delora-sd score --help`)."""
    tune: TuneConfig = field(default_factory=TuneConfig)
    generate: dict[str, Any] = field(default_factory=dict)
    """Settings of the images that differ from the defaults (`delora-sd generate --help`)."""
    drift: bool = True
    """Also generate the class prompts, without the identifier, with adapter and base: what was forgotten."""
    protocol: tuple[str, ...] = ("auto",)
    """Protocols to score under (`delora-sd protocols`)."""
    lpips_weights: str | None = None
    """Adds LPIPS diversity: a .safetensors file with the state of `lpips.LPIPS(net="alex")`."""
    judges: FamilyConfig = field(default_factory=FamilyConfig)
    """Judges beside DINO and CLIP: judges.set=all prints classic and wide ones in one run."""
    encoders: EncoderConfig = field(default_factory=EncoderConfig)
    projection: str | None = None
    """Layer whose Euclidean distance from the pretrained weight is reported (Figs. 2, 3); none: the mean of all."""
    weight_norms: bool = False
    """Fig. 4: mean column norms of the base model's projections, by block. Needs no cells."""
    sheet_prompts: tuple[int, ...] = (0, 4, 10, 18)
    """Prompt numbers shown in the image sheets; a list without them shows its first ones."""
    pack: str = "auto"
    """Cells trained in one batch: a number, or auto (the largest that fits, at most 30)."""
    profile: bool = False
    """Also write where the time of every cell goes, and what of it is arithmetic; a table of the report shows it."""
    launcher: Literal["local", "accelerate", "ray"] = "local"
    """local: this process. accelerate: every rank of `accelerate launch` takes its share of the packs.
    ray: an existing Ray cluster (extra: pip install delora_sd[cluster])."""
    shard: str = "0/1"
    """`i/n`: take share i of n first, then what nobody has claimed. For job arrays on a shared file system."""
    ray: RayConfig = field(default_factory=RayConfig)


@dataclass(frozen=True, kw_only=True)
class StatusConfig:
    """What is finished, running, failed and left, in a run or a benchmark."""

    folder: str = ""
    """A run folder or a benchmark's."""


def with_absolute_places(config: BenchmarkConfig) -> BenchmarkConfig:
    """Returns the settings with every file of the judges as a path that means the same from any folder."""
    encoders, masks = config.encoders, config.judges.masks
    return replace(
        config,
        lpips_weights=config.lpips_weights and absolute_place(config.lpips_weights),
        judges=replace(config.judges, masks=masks and absolute_place(masks)),
        encoders=replace(
            encoders,
            weights={name: absolute_place(path) for name, path in encoders.weights.items()},
            weights_dir=encoders.weights_dir and absolute_place(encoders.weights_dir),
        ),
    )


def generate_settings(config: BenchmarkConfig) -> GenerateConfig:
    """Returns the settings every image of the table shares.

    Raises:
        UserError: unknown settings, or those that the grid decides.
    """
    for key in DECIDED_BY_THE_GRID:
        if key in config.generate:
            raise UserError(f"generate: {key} is decided by the grid; remove it")
    return with_settings(GenerateConfig(), config.generate, source="generate")
