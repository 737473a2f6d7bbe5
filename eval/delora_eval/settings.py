"""Every setting of the judge, its default and what it decides. No torch here: `--help` answers at once."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Where the judges' weights come from and how they run."""

    weights: dict[str, str] = field(default_factory=dict)
    """Local weights, {encoder id: .safetensors file or its folder}, such as {dino/vit-s-16: ~/dino.safetensors}."""
    weights_dir: str | None = None
    """A folder searched for every encoder: `dino-vit-s-16.safetensors`, or folders named as on the hub."""
    vlm: str | None = None
    """The vision-language model that vqa and rubric ask: a local folder or a hub id; needs a chat template."""
    offline: bool = False
    """Never touch the network; use only local files and the hub's cache."""
    random_weights: bool = False
    """Judge with untrained encoders: proves the plumbing. Every number is stamped RANDOM and means nothing."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto: a GPU when there is one. Encoders always run in fp32 without TF32."""
    batch_size: int = 64
    """Images per forward pass."""
    num_readers: int = 4
    """Threads that read and resize images."""


@dataclass(frozen=True, kw_only=True)
class FamilyConfig:
    """Which judges look, and what some of them need."""

    set: tuple[str, ...] = ("classic",)
    """classic: the protocol's DINO and CLIP, what papers print. wide: the newer ones. all: both. Or judges by name,
    such as [classic, dinov2/vit-b-14, dreamsim/ensemble, masc, vqa] (docs/JUDGES.md)."""
    masks: str | None = None
    """Folder with masks of the photos, for masc; none: the folder `masks` beside them, or their alpha channel."""


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Score the images of a run, or any folder of images against any folder of photos."""

    run: str | None = None
    """A run folder with images/. Give this, or `reference` and `generated`."""
    reference: str | None = None
    """A folder with photos of one subject, or with one folder per subject."""
    generated: str | None = None
    """A folder with generated images of that subject, or one folder per subject (`dog`, or OFT's `dog-7`)."""
    prompts: str | None = None
    """With `generated`: a .json file {image: prompt}, or a .txt file with one prompt per image, in name order.
    none: read from images.jsonl in the folder where there is one, else scores that need prompts are left out."""
    identifier: str = "qwe"
    """With `generated`: the rare token in the prompts; it is taken out of CLIP-T's text."""
    class_word: str | None = None
    """With `generated`: what the subject is, for class accuracy."""
    held_out: str | None = None
    """With `generated`: photos that were not trained on, laid out as `reference`. A run knows its own."""
    gallery: str | None = None
    """A dataset among whose subjects every image is ranked: `miniature`, or one folder of photos per subject.
    With several subjects in `reference`: those. none: no ranks."""
    gallery_subjects: tuple[str, ...] = ()
    """Only these subjects of the gallery; none: all."""
    sets: tuple[str, ...] = ()
    """Only these image sets of the run, by folder (final-1a2b3c4d) or by kind (final, ema, step-000400, base); none:
    all."""
    protocol: tuple[str, ...] = ("auto",)
    """dreambooth, oft, miniature, or a combination as `delora-sd protocols` names them.
    auto: miniature for images of the miniature base, dreambooth otherwise."""
    clip_t_identifier: bool = False
    """CLIP-T against the prompt with the rare token in it, as OFT did; false: without."""
    oft_substring_bug: bool = False
    """Pair subjects as OFT's evaluator did: `dog` also gets the images of `backpack_dog`."""
    copy_similarity: float | None = None
    """An image is a copy when its nearest photo is at least this similar (DINO cosine);
    none: as similar as the subject's two most alike photos are to each other."""
    copy_risk: bool = False
    """Also look for whole photos and parts of them in the images: 38 windows of each, of three sizes, are encoded."""
    lpips_weights: str | None = None
    """Adds LPIPS diversity: a .safetensors file with the state of `lpips.LPIPS(net="alex")`."""
    output: str | None = None
    """Where scores go; none: scores.jsonl in the run folder or in `generated`."""
    table: str | None = None
    """Also write the totals to this file: .csv for a spreadsheet, .json for a program."""
    judges: FamilyConfig = field(default_factory=FamilyConfig)
    encoders: EncoderConfig = field(default_factory=EncoderConfig)


@dataclass(frozen=True, kw_only=True)
class ChooseConfig:
    """Choose the best kept checkpoint of a run, by held-out photos and prompts, on images no report is made of."""

    run: str = ""
    """A run folder with at least two checkpoints."""
    prompts: tuple[str, ...] = ("dreambooth",)
    """`dreambooth`: every fifth of the 25 benchmark prompts; or own prompts. Report on others."""
    images_per_prompt: int = 4
    seed: int = 0
    """Image k of every prompt starts from the noise of 1,000,000 + seed + k: other noise than any report's."""
    steps: tuple[int, ...] = ()
    """Only these checkpoints; none: all that are kept."""
    protocol: str = "auto"
    """Whose scores choose, as in `delora-sd score`."""
    generate: dict[str, Any] = field(default_factory=dict)
    """Settings of the images that differ from the defaults (`delora-sd generate --help`)."""
    encoders: EncoderConfig = field(default_factory=EncoderConfig)


@dataclass(frozen=True, kw_only=True)
class RetentionConfig:
    """Score each subject with its own adapter and with several added up: what combining costs each of them."""

    runs: tuple[str, ...] = ()
    """Two or more finished runs on one base."""
    combined: str | None = None
    """A file of `delora-sd combine`, with whatever its rank cut off; none: the exact sum of the runs' adapters."""
    strengths: tuple[float, ...] = ()
    """Without `combined`: one per run in the sum, 0 to 2; none: 1 each. Alone, each is at strength 1."""
    prompts: tuple[str, ...] = ("dreambooth",)
    """As in `delora-sd generate`; each run's identifier and class word are filled in."""
    images_per_prompt: int = 1
    protocol: str = "auto"
    """As in `delora-sd score`."""
    generate: dict[str, Any] = field(default_factory=dict)
    """Settings of the images that differ from the defaults (`delora-sd generate --help`)."""
    encoders: EncoderConfig = field(default_factory=EncoderConfig)


@dataclass(frozen=True, kw_only=True)
class MasksConfig:
    """Make masks of photos or images: where the subject is, for judges and losses that look at it alone."""

    photos: str = ""
    """A folder of photos, or of images (a set in a run's images/)."""
    class_word: str | None = None
    """What to look for, in plain words: dog, backpack, teapot with a blue lid."""
    segmenter: str = "CIDAS/clipseg-rd64-refined"
    """A CLIPSeg: hub id or local folder. For finer edges put the masks of any other tool (SAM 2, GroundingDINO with
    SAM 2, a paint program) into the folder of masks, and this command leaves them alone."""
    threshold: float = 0.5
    """A pixel is the subject when the segmenter is at least this sure."""
    output: str | None = None
    """Where masks go; none: the folder `masks` beside the photos, where they are looked for."""
    page: str | None = None
    """The overlay page; none: overlay.html in the folder of masks."""
    offline: bool = False
    """Never touch the network; use only local files and the hub's cache."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write one self-contained HTML page about a run."""

    run: str = ""
    """A run folder."""
    output: str | None = None
    """The page; none: report.html in the run folder."""
    images_per_prompt: int = 4
    """Images shown per prompt and set."""
    thumbnail_px: int = 320
    """Longest side of an embedded image; the files in the run folder stay as they are."""


@dataclass(frozen=True, kw_only=True)
class JudgesConfig:
    """What each judge can tell apart, on real photos alone; nothing is generated."""

    dataset: str = "data/dreambooth"
    """A dataset (one folder of photos per subject), or `miniature` (bundled)."""
    judges: tuple[str, ...] = ("auto",)
    """Judges such as dino/vit-s-16, or the sets wide and all (docs/JUDGES.md). auto: the miniature's judges for the
    miniature, else those of the papers."""
    lookalikes: int = 0
    """dataset=miniature: also judge this many subjects no training saw, each beside its lookalike (same class and main
    colour), rendered on the spot."""
    ratings: str | None = None
    """DreamBench++'s folder of merged human ratings (`<group>/<method>-cp.json`): adds agreement with people."""
    samples: str | None = None
    """With `ratings`: the folder of DreamBench++'s rated images (`<method>_.../src_image`, `tgt_image`, `text`)."""
    output: str | None = None
    """Also write the table (Markdown, CSV, LaTeX, JSON) and the figure (SVG, PNG) into this folder."""
    encoders: EncoderConfig = field(default_factory=EncoderConfig)


@dataclass(frozen=True, kw_only=True)
class ProtocolsConfig:
    """The Real Images row of a dataset under every protocol, beside the published rows."""

    dataset: str = "data/dreambooth"
    """Folder of the DreamBooth dataset (one folder of photos per subject)."""
    output: str | None = None
    """Also write the table as JSON lines to this file."""
    encoders: EncoderConfig = field(default_factory=EncoderConfig)
