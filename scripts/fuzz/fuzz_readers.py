"""What reads a run folder or a benchmark's without a model: how `score`, `report`, `generate`, `train` begin."""

from pathlib import Path


def read_page(path: Path) -> None:
    from delora_eval.pages.run_page.page import render_run
    from delora_sd.files.run_folder import RunFolder

    render_run(RunFolder(path), images_per_prompt=2, thumbnail_px=16)


def read_sets(path: Path) -> None:
    from delora_eval.scoring.inputs.image_sets import read_run_sets
    from delora_eval.scoring.record.score_lines import read_scores
    from delora_eval.scoring.record.summary import render_scores
    from delora_sd.files.run_folder import RunFolder

    run = RunFolder(path)
    run.check_version()
    read_run_sets(run, subject="dog", identifier="qwe")
    render_scores(read_scores(run.scores))


def read_for_generation(path: Path) -> None:
    from delora_sd.adapters.exchange.stored.provenance import describe_adapter
    from delora_sd.files.run_folder import RunFolder
    from delora_sd.generation.requests import ImageSet, finished_files, read_listing, write_listing
    from delora_sd.generation.sources import find_source
    from delora_sd.settings import GenerateConfig

    source = find_source(GenerateConfig(run=str(path)))
    describe_adapter(next(iter(source.adapters)), {}, base=source.model.base)
    for listing in sorted(RunFolder(path).images.glob("*/images.jsonl")):
        image_set = ImageSet(folder=listing.parent, facts={})
        finished_files(image_set)
        write_listing(image_set, read_listing(listing))


def read_to_resume(path: Path) -> None:
    from delora_sd.config.deciding import read_run_settings
    from delora_sd.files.run_folder import RunFolder
    from delora_sd.training.before.door import check_resume
    from delora_sd.training.record.checkpoints import last_common_step

    run = RunFolder(path)
    config = read_run_settings(run.config)
    check_resume(run, config)
    run.is_trained_to(config.training.num_steps)
    run.read_failure()
    run.read_events()
    last_common_step([run])


def read_benchmark(path: Path) -> None:
    from delora_eval.benchmark.folder import BenchmarkFolder, read_chosen
    from delora_eval.benchmark.report.contents import build_tables, scores_csv
    from delora_eval.benchmark.report.figures.sheets import build_sheets
    from delora_eval.benchmark.report.numbers.view import read_view
    from delora_eval.pages.tables import render_csv, render_latex, render_markdown

    folder = BenchmarkFolder(path)
    view = read_view(folder)
    read_chosen(folder)
    for table in (*build_tables(view), scores_csv(view)):
        render_csv(table), render_latex(table), render_markdown(table)
    build_sheets(view)


READERS = {
    "page": read_page,
    "sets": read_sets,
    "generate": read_for_generation,
    "resume": read_to_resume,
    "benchmark": read_benchmark,
}
