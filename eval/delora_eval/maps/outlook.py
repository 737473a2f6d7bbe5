"""What a table on maps will take, before anything of it starts: rows, parameters, hours and disk."""

from delora_eval.maps.rows import Row, read_rows, shared_training
from delora_eval.maps.settings import MapBenchmarkConfig
from delora_sd.maps.door import num_steps
from delora_sd.maps.encoder import encoder_widths
from delora_sd.maps.estimate import (
    SUSTAINED_TFLOPS,
    Shapes,
    cache_bytes,
    count_adapter,
    count_encoder,
    count_pairs,
    drawing_hours,
    load_shapes,
    show_gb,
    show_identity,
    training_hours,
)

IMAGE_BYTES = 400_000
"""Of a PNG of 512 px; smaller ones in proportion."""


def describe_benchmark(config: MapBenchmarkConfig) -> list[str]:
    """Returns the plan, line by line. Raises UserError for settings that cannot work."""
    rows, training = read_rows(config), shared_training(config)
    shapes = load_shapes(training.model)
    pairs, where = count_pairs(training.data, "train")
    tested, _ = count_pairs(training.data, config.split)
    encoder = count_encoder(encoder_widths(shapes.base), shapes.unet.conv_in.out_channels)
    hours = [_hours(config, row, shapes, pairs, tested) for row in rows]
    num_sets = 1 + sum(len(row.trainings) if len(row.trainings) > 1 else 0 for row in rows) + len(rows)
    images = num_sets * tested * IMAGE_BYTES * (shapes.base.size_px / 512) ** 2
    return [
        f"{config.title}: {len(rows)} trained rows, {pairs:,} training maps ({where}), {tested:,} judged",
        f"control encoder: {encoder:,} parameters in every row",
        *(
            f"  {row.label}: {count_adapter(next(iter(row.trainings.values())), shapes.unet)}; "
            f"{len(row.trainings)} trainings, {own:.1f} h"
            for row, own in zip(rows, hours, strict=True)
        ),
        f"OFT's published count on Stable Diffusion 1.5: {show_identity()}",
        f"time: about {sum(hours) + drawing_hours(shapes, tested, config.num_inference_steps):.1f} h on an H200 "
        f"({SUSTAINED_TFLOPS:g} TFLOP/s sustained, an assumption), judging not counted",
        f"disk: {show_gb(cache_bytes(shapes, pairs))} of cached latents, labels and embeddings, "
        f"{show_gb(images)} of images in {num_sets} sets, beside the dataset",
    ]


def _hours(config: MapBenchmarkConfig, row: Row, shapes: Shapes, pairs: int, tested: int) -> float:
    """Trainings of the row, drawing for its search, and drawing what is reported."""
    trainings = row.trainings.values()
    trained = sum(training_hours(training, shapes, num_steps(training, pairs)) for training in trainings)
    searched = sum(training.data.search_maps for training in trainings) if len(row.trainings) > 1 else 0
    return trained + drawing_hours(shapes, tested + searched, config.num_inference_steps)
