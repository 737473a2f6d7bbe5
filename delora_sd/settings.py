"""Every setting of the maker, its default, its unit and what it decides.

No torch here: `--help` and `--dry-run` answer at once.
"""

from dataclasses import dataclass, field
from typing import Literal

DEFAULT_BASE = "stable-diffusion-v1-5/stable-diffusion-v1-5"

SigmaSampling = Literal["logit_normal", "uniform", "shifted"]
SigmaWeighting = Literal["none", "sigma_sqrt", "cosmap"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    base: str = DEFAULT_BASE
    """Stable Diffusion 1.x/2.x, SDXL or another family (docs/ADDING_A_BASE.md): `miniature` (bundled, offline), a local
    diffusers folder, a checkpoint in one .safetensors file, or a hub id. `sd15-architecture`, `sdxl-architecture`, ...
    are real architectures with random weights: for tests of size and speed only."""
    revision: str | None = None
    """Branch, tag or commit on the hub; none: the default branch."""
    offline: bool = False
    """Never touch the network; use only what is bundled, local or already cached."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the frozen base. auto: bf16 on a GPU that has it, fp16 on older ones, fp32 on a CPU.
    Adapter parameters are always fp32."""
    quantization: Literal["none", "int8", "int4"] = "none"
    """Store the frozen denoiser's linear weights in 8 or 4 bits (extra: pip install delora_sd[quantize])."""
    size_px: int | None = None
    """Side of the square training and generated images, pixels; none: what the base was trained at."""
    text_layers: tuple[int, ...] | None = None
    """FLUX.2: which hidden states of the text encoder condition it; none: its own (klein: 9, 18, 27)."""
    allow_distilled: bool = False
    """Train on a base that was distilled to draw in few steps; its adapters suit no other, and its loss is not its
    own. `generate` can use the distilled twin of a base without this."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    subject: str | None = None
    """A subject of the dataset, such as `dog` or `backpack_dog`. Give this or `data.photos`."""
    dataset: str = "data/dreambooth"
    """Folder of the DreamBooth dataset (scripts/prepare/fetch_dreambooth.py brings it), or `miniature` (bundled)."""
    photos: str | None = None
    """A folder with your own photos of one subject, 4 to 6 are enough: .jpg .png .webp .bmp .tif .avif, and .heic
    with `pip install delora_sd[heic]`."""
    class_word: str | None = None
    """What the subject is: dog, backpack, toy. Needed with `data.photos`; known for dataset subjects."""
    is_live: bool | None = None
    """True: animals and people (hats, outfits in the prompt list); false: objects. none: known from the class word."""
    hold_out: int = 0
    """Photos never trained on, kept to score against; which ones is a function of (subject, seed).
    0: train on all, as the paper does. At least 2 photos must remain."""
    identifier: str = "qwe"
    """Rare token that will name the subject."""
    instance_template: str = "a photo of {identifier} {class_word}"
    """Caption of the subject's photos. Prompts use the same placeholders. With `data.captions` it also holds
    `{caption}`, and the captions may hold the other two: `{caption}` alone trains on them as they are."""
    captions: str | None = None
    """A caption for each photo: `beside` (NAME.txt beside NAME.jpg), or a file of Hugging Face (metadata.jsonl, .csv:
    `file_name`, `text`) or kohya (.json). `delora-sd captions` writes them. none: the template alone."""
    buckets: bool = False
    """Photos keep their shape (SDXL and later): each is cut to the nearest of a few shapes of equal area, each batch
    has one shape, and class images have the photos' shapes. One adapter at a time. False: the centred square."""
    class_template: str = "a photo of {class_word}"
    """Caption of the class images of prior preservation."""


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    method: str = "delora"
    """One of `delora-sd methods`."""
    rank: int = 16
    """Rank r of the low-rank update."""
    boundary: float = 8.0
    """Initial boundary lambda (Eq. 7, 8), learnable per layer. In which unit: `boundary_unit`."""
    boundary_unit: Literal["paper", "relative"] = "paper"
    """paper: lambda itself. relative: the bound on ||dW||_F / ||W||_F, the same at every layer width
    (lambda = relative * sqrt(in_features) under column norms)."""
    alpha: float | None = None
    """LoRA and DoRA: the update is scaled by alpha / rank (Eq. 1); none: 2 * rank, as in the paper (App. B)."""
    weight_norm: Literal["column", "frobenius", "none"] = "column"
    """What scales the update by the frozen weight (Eq. 8): per-input column norms as in the authors' code,
    the Frobenius norm as the equation is written, or nothing (Table 1, "controllable boundary")."""
    init: Literal["frozen_copy", "mirrored", "zero_up"] = "frozen_copy"
    """How a normalised update starts at zero: minus a frozen copy of itself (Eq. 9, the paper),
    twin terms of opposite sign (ours), or B = 0 (peft)."""
    train_magnitude: bool = True
    """DoRA: learn the magnitude vector; false is Table 10's fixed magnitude."""
    target_modules: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    """Layers to adapt: those whose dotted name ends with one of these, Linear and Conv2d. These four, the default, mean
    what the base's family calls its own (the run's config.yaml then names them)."""
    rank_pattern: dict[str, int] = field(default_factory=dict)
    """Other ranks for some layers: {regular expression on the layer's name: rank}."""
    boundary_pattern: dict[str, float] = field(default_factory=dict)
    """Other initial boundaries for some layers: {regular expression on the layer's name: boundary}."""
    num_blocks: int = 4
    """OFT: number of diagonal blocks n per layer."""
    peft_config: str | None = None
    """`adapter.method=peft`: a JSON file with any PEFT configuration (LoHa, LoKr, BOFT, HRA, VeRA, ...)."""


@dataclass(frozen=True, kw_only=True)
class EmaConfig:
    decay: float = 0.0
    """Also keep an exponential moving average of the adapter, `ema`: 0.99 remembers the last 100 steps or so, 0.999
    the last 1000. 0: none. `delora-sd average` makes averages of other lengths afterwards."""
    warmup: bool = True
    """Begin with a short memory: at step t the decay is at most (1 + t) / (10 + t), or the start would weigh long."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    num_steps: int = 1400
    """Optimizer steps. The paper finds the best scores between 1000 and 1400 (Sec. 3.4)."""
    batch_size: int = 1
    """Photos per optimizer step and adapter, over all processes; prior preservation adds as many class images."""
    gradient_accumulation: int = 1
    """Split each step's batch into this many parts to save memory; the result is the same."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    compile: bool = False
    """torch.compile the UNet: pays on a GPU after the first minutes."""
    prior_weight: float = 1.0
    """Weight of the prior-preservation loss (DreamBooth); 0 switches it off."""
    sigma_sampling: SigmaSampling = "logit_normal"
    """Bases that flow (FLUX.2, Z-Image): which noise levels are drawn. logit_normal: the middle ones most (Esser et al.
    2024); uniform; shifted: uniform through the sampler's own shift, which depends on the number of tokens."""
    sigma_weighting: SigmaWeighting = "none"
    """Bases that flow: the weight of each sample's loss by its noise level, as in diffusers' scripts."""
    outside_weight: float = 1.0
    """Weight of the loss outside the subject's mask, 0 to 1 (inside it is 1); class images count whole. Below 1 every
    photo needs its mask: a folder `masks` beside the photos (`delora-sd masks` makes it), or the photo's own alpha."""
    num_class_images: int = 200
    """Class images for prior preservation, made once per class word by the base model and shared."""
    checkpoint_every: int = 200
    """Steps between checkpoints; training resumes from the last one."""
    keep_checkpoints: int = 0
    """Keep the optimizer state of only the newest N checkpoints, their adapters always; 0: keep all."""
    log_every: int = 10
    """Steps between lines in events.jsonl."""
    export_check: Literal["images", "tensors"] = "images"
    """What compares the exported files with the trained adapter. images: diffusers loads each and draws with it.
    tensors: each is read back, and its change of every layer compared; a hundredth of the time. A benchmark that does
    not say draws for its first cell of each method."""
    tracker: Literal["none", "tensorboard", "wandb"] = "none"
    """Also send the curves to a tracker (extra: pip install delora_sd[track])."""
    allow_tf32: bool = True
    """Let NVIDIA GPUs use TF32 for fp32 products."""
    ema: EmaConfig = field(default_factory=EmaConfig)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    name: Literal["adamw", "adamw8bit"] = "adamw"
    """adamw8bit needs bitsandbytes and a GPU (extra: pip install delora_sd[adamw8bit])."""
    lr: float | None = None
    """Learning rate; none: the method's published rate (`delora-sd methods`), with `angular` 0.1."""
    angular: bool = False
    """Ours, not the paper's: keep the directions of DeLoRA and its kin at one length, so that `lr` is the angle in
    radians by which a step turns them, the same at every width and every step."""
    boundary_lr: float = 1e-3
    """Learning rate of DeLoRA's boundary (App. B: "we fixed the lambda scaling parameter to 1e-3")."""
    magnitude_lr: float | None = None
    """Learning rate of DoRA's magnitude (and that of `adapter.train_magnitude`); none: `lr`, as the DoRA paper's."""
    weight_decay: float = 1e-2
    """Decoupled weight decay of A and B (OFT scripts); the boundary is never decayed."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip_norm: float = 1.0
    """Largest gradient norm of one adapter, clipped per adapter; 0 switches clipping off."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate goes on after the warmup; linear and cosine end at 0."""
    warmup_steps: int = 0
    """Optimizer steps in which the learning rate rises from 0."""


@dataclass(frozen=True, kw_only=True)
class PreviewConfig:
    every: int = 0
    """Steps between preview images; 0: none."""
    prompts: tuple[str, ...] = (
        "a photo of {identifier} {class_word}",
        "a {identifier} {class_word} on the beach",
        "a {identifier} {class_word} in the snow",
        "a {identifier} {class_word} on top of a wooden floor",
    )
    """Prompts with {identifier} and {class_word}."""
    num_inference_steps: int = 25
    guidance: float = 7.5


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Fine-tune Stable Diffusion on one subject."""

    output_dir: str = ""
    """Run folder. The same command again resumes."""
    seed: int = 0
    """Decides the adapter's start, the order of the photos, noise and timesteps."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    preview: PreviewConfig = field(default_factory=PreviewConfig)


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Generate the subject in new contexts."""

    run: str = ""
    """A run folder, a PEFT adapter folder, or a plain LoRA file (.safetensors)."""
    output_dir: str | None = None
    """Where images go; none: the run folder. Needed when `run` is a file or a PEFT folder."""
    prompts: tuple[str, ...] = ("dreambooth",)
    """`dreambooth` (the 25 benchmark prompts of the subject's kind), `class` (the same without the identifier),
    a text file with one prompt per line, or the prompts themselves."""
    images_per_prompt: int = 4
    seed: int = 0
    """Image k of every prompt starts from the noise of seed + k."""
    step: int | None = None
    """Generate from the checkpoint of this step; none: the final adapter."""
    average: str | None = None
    """An average of the run's adapter: `ema`, or the name of one by `delora-sd average`; none: as trained."""
    base: str | None = None
    """Draw a run with another base than it was trained on, such as the distilled twin of FLUX.2 klein's base (with
    num_inference_steps=4 guidance=1); none: its own. Every layer must have the same shape."""
    strength: float = 1.0
    """0: the base model exactly; 1: as trained; up to 2."""
    extra_adapters: dict[str, float] = field(default_factory=dict)
    """More adapters on top: {run folder or file: strength}."""
    num_inference_steps: int = 25
    """DPM-Solver++ (multistep) steps."""
    guidance: float = 7.5
    """Classifier-free guidance scale."""
    negative_prompt: str = ""
    batch_size: int | None = None
    """Images per batch; none: 8 on a CPU, what fits on a GPU. Never changes an image."""
    compile: bool = False
    model: ModelConfig = field(default_factory=ModelConfig)
    """Only for adapters without a run folder, and to override dtype or size_px."""
    data: DataConfig = field(default_factory=DataConfig)
    """Only for adapters without a run folder: identifier and class word for the prompts."""


@dataclass(frozen=True, kw_only=True)
class NamedBase:
    base: str = ""
    """The base the adapter goes onto, where its weights are needed; none: the run's, or the one its folder names."""
    revision: str | None = None
    """Branch, tag or commit on the hub; none: the default branch."""
    offline: bool = False
    """Never touch the network; use only what is bundled, local or already cached."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write an adapter as a plain LoRA file that other tools load."""

    run: str = ""
    """A run folder, a PEFT adapter folder, or a plain LoRA file of another tool."""
    output: str | None = None
    """File (kohya, diffusers) or folder (peft); none: `export/` in the run folder."""
    layout: Literal["kohya", "diffusers", "peft"] = "kohya"
    """kohya: ComfyUI, AUTOMATIC1111, Forge, diffusers. diffusers: pipe.load_lora_weights. peft: PeftModel."""
    precision: Literal["fp16", "fp32"] = "fp16"
    strength: float = 1.0
    """Scale the exported update."""
    step: int | None = None
    """Export the checkpoint of this step; none: the final adapter."""
    average: str | None = None
    """An average of the run's adapter: `ema`, or the name of one by `delora-sd average`; none: as trained."""
    rank: int | None = None
    """The closest LoRA of this rank; none: the exact one, or, of OFT and other updates that are not low-rank, an SVD
    of 4 times the adapter's rank."""
    dora_scale: bool = False
    """DoRA in a kohya file: its exact `dora_scale` instead of an SVD. LyCORIS, AUTOMATIC1111, Forge and today's ComfyUI
    normalise along the outputs, as DoRA does; older ComfyUI along the inputs; diffusers ignores it and draws wrong."""
    model: NamedBase = field(default_factory=NamedBase)


@dataclass(frozen=True, kw_only=True)
class CombineConfig:
    """Add several adapters of one base up into one plain LoRA file."""

    adapters: tuple[str, ...] = ()
    """Two or more: run folders, PEFT adapter folders, plain LoRA files of other tools."""
    output: str = ""
    """File (kohya, diffusers) or folder (peft)."""
    strengths: tuple[float, ...] = ()
    """One per adapter, 0 to 2; none: 1 each."""
    rank: int | None = None
    """Reduce the sum to the closest LoRA of this rank; none: the exact sum, its rank the sum of theirs. DoRA, OFT and
    others that are not low-rank enter as the closest LoRA of 4 times their rank; what that loses is said."""
    layout: Literal["kohya", "diffusers", "peft"] = "kohya"
    """kohya: ComfyUI, AUTOMATIC1111, Forge, diffusers. diffusers: pipe.load_lora_weights. peft: PeftModel."""
    precision: Literal["fp16", "fp32"] = "fp16"
    model: NamedBase = field(default_factory=NamedBase)


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """Write a full Stable Diffusion folder with the adapter merged in."""

    run: str = ""
    """A run folder, a PEFT adapter folder, or a plain LoRA file of another tool."""
    output: str = ""
    """Folder for the merged diffusers model."""
    strength: float = 1.0
    precision: Literal["fp16", "fp32"] = "fp16"
    model: NamedBase = field(default_factory=NamedBase)


@dataclass(frozen=True, kw_only=True)
class MethodsConfig:
    """The table of methods on a base model."""

    model: ModelConfig = field(default_factory=lambda: ModelConfig(base="sd15-architecture"))
    adapter: AdapterConfig = field(default_factory=AdapterConfig)


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """What this machine can run, and what to do about what is missing."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The base you mean to use."""
    dataset: str = "data/dreambooth"
    """Folder of the DreamBooth dataset."""
    self_test: bool = True
    """Train an adapter on the bundled miniature for two steps and generate an image: about 10 seconds."""
