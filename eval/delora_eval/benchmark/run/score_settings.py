"""What every cell of a benchmark is scored with, but for its own folders."""

from delora_eval.benchmark.methods import dotted
from delora_eval.benchmark.settings import BenchmarkConfig
from delora_eval.settings import ScoreConfig
from delora_sd.data.subjects import present_subjects
from delora_sd.settings import TrainConfig


def score_settings(config: BenchmarkConfig) -> ScoreConfig:
    """Returns the shared settings. Images are ranked among all subjects of the dataset, however many the grid has: a
    rank means the same when the grid grows, and in the search as in the test."""
    settings = dotted(config.train, where="train")
    dataset = settings.get("data.dataset", TrainConfig().data.dataset)
    subjects = () if settings.get("data.photos") else present_subjects(dataset)
    return ScoreConfig(
        protocol=config.protocol,
        lpips_weights=config.lpips_weights,
        copy_risk=config.copy_risk,
        judges=config.judges,
        gallery=dataset if len(subjects) > 1 else None,
        gallery_subjects=subjects if len(subjects) > 1 else (),
    )
