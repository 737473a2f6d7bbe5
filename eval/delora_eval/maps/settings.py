"""Every setting of the judge's map room, its default and what it decides. No torch here: `--help` answers at once."""

from dataclasses import dataclass, field
from typing import Any, Literal

from delora_sd.maps.settings import MapDataConfig, Split


@dataclass(frozen=True, kw_only=True)
class MapJudgeConfig:
    segmenter: str = "auto"
    """Who looks: `segformer-b4` (SegFormer-B4 on ADE20K, what OFT and HRA used), `upernet-101` (CSAIL's, the paper's
    best candidate; needs `upernet_weights`), a hub id or local folder of any model for semantic segmentation in
    transformers, or `miniature`. auto: miniature for the miniature's maps, else segformer-b4."""
    upernet_weights: str | None = None
    """`segmenter=upernet-101`: the file that scripts/prepare/convert_upernet.py wrote."""
    label_geometry: Literal["image", "native"] = "image"
    """Where prediction and map meet: the map is brought to the image's size (nearest label), or the prediction to the
    map's own size. Not published; the page says which."""
    inception: str | None = None
    """FID and KID: the file that scripts/prepare/convert_inception.py wrote (extra: pip install delora_sd[maps]).
    none: left out. The miniature uses its own mini-dino."""
    offline: bool = False
    """Never touch the network; use only local files and the hub's cache."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    batch_size: int = 8
    """Images per forward pass."""


@dataclass(frozen=True, kw_only=True)
class ShowMapsConfig:
    """A page with maps and photos side by side, and what is in the dataset."""

    data: MapDataConfig = field(default_factory=MapDataConfig)
    split: Split = "train"
    """Which part of the dataset."""
    count: int = 24
    """Pairs on the page: the first by name."""
    output: str = "maps.html"
    """The page."""


@dataclass(frozen=True, kw_only=True)
class ScoreMapsConfig:
    """Judge images that were drawn from a dataset's maps: pixel accuracy, class accuracy, mIoU, FID and KID."""

    images: str = ""
    """A folder of images named by the maps' names, or a set that `delora-sd generate` drew (images.jsonl)."""
    data: MapDataConfig = field(default_factory=MapDataConfig)
    """The dataset the maps are of."""
    split: Split = "test"
    """The part of the dataset whose maps were drawn."""
    output: str | None = None
    """Where scores go; none: map_scores.json in the folder."""
    judge: MapJudgeConfig = field(default_factory=MapJudgeConfig)


@dataclass(frozen=True, kw_only=True)
class MapBenchmarkConfig:
    """Train, draw and judge the rows of a table on semantic maps; the same command again resumes."""

    output_dir: str = ""
    title: str = "Semantic maps to images"
    """Headline of the page."""
    paper: str | None = None
    """Published rows to print beside: `table2`."""
    train: dict[str, Any] = field(default_factory=dict)
    """Settings of every training that differ from the defaults (`delora-sd train-maps --help`)."""
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    """{row: {label: its name in the table, setting of its training: value}}. The real photos and the base without any
    map are always there."""
    search: tuple[float, ...] = ()
    """Factors on each row's `optimizer.lr`: every one is trained, the best on the search split is reported. (): as
    given."""
    split: Split = "test"
    """What is reported on."""
    num_inference_steps: int = 50
    guidance: float = 9.0
    """On the text only: the map is in both branches."""
    solver: Literal["own", "ddim"] = "ddim"
    """ddim: Stable Diffusion's own sampler, as the paper's. own: the one that `generate` uses for the base."""
    seed: int = 0
    """Of the images' noise; every map has noise of its own."""
    batch_size: int | None = None
    """Images per batch; none: 8 on a CPU, what fits on a GPU. Never changes an image."""
    sheet_maps: int = 8
    """Maps shown on the picture sheet: the first by name, chosen by rule, not by look."""
    judge: MapJudgeConfig = field(default_factory=MapJudgeConfig)
