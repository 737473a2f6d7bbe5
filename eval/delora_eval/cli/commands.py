"""The judge's commands. Heavy imports sit inside the functions: `--help` answers at once."""

from dataclasses import asdict
from pathlib import Path

from delora_eval import settings
from delora_eval.benchmark.settings import BenchmarkConfig, StatusConfig
from delora_eval.maps.settings import MapBenchmarkConfig, ScoreMapsConfig, ShowMapsConfig
from delora_sd.cli.command import Command, to_json


def _score(config: settings.ScoreConfig) -> None:
    from delora_eval.scoring.score import score

    score(config)


def _score_json(config: settings.ScoreConfig) -> None:
    from delora_eval.scoring.record.summary import table_rows
    from delora_eval.scoring.score import score_quietly

    lines, output = score_quietly(config)
    print(to_json({"scores": table_rows(lines), "output": str(output)}))


def _report(config: settings.ReportConfig) -> None:
    from delora_eval.benchmark.folder import BenchmarkFolder

    folder = BenchmarkFolder(Path(config.run).expanduser())
    if folder.is_benchmark():
        from delora_eval.benchmark.report.report import report_benchmark

        report_benchmark(folder)
    else:
        from delora_eval.pages.run_page.page import write_report

        write_report(config)


def _benchmark(config: BenchmarkConfig) -> None:
    from delora_eval.benchmark.run.workers.launchers import run_benchmark

    run_benchmark(config)


def _plan(config: BenchmarkConfig) -> None:
    from delora_eval.benchmark.run.outlook.dry_run import print_plan

    print_plan(config)


def _status(config: StatusConfig) -> None:
    from delora_eval.benchmark.run.outlook.status import print_status

    print_status(config)


def _status_json(config: StatusConfig) -> None:
    from delora_eval.benchmark.run.outlook.status import describe_status

    print(to_json(describe_status(config)))


def _protocols(config: settings.ProtocolsConfig) -> None:
    from delora_eval.scoring.protocol_table import print_protocols

    print_protocols(config)


def _choose(config: settings.ChooseConfig) -> None:
    from delora_eval.choice.choose import choose

    choose(config)


def _retention(config: settings.RetentionConfig) -> None:
    from delora_eval.retention import measure_retention, render_retention

    print(render_retention(measure_retention(config)))


def _retention_json(config: settings.RetentionConfig) -> None:
    from delora_eval.retention import measure_retention

    print(to_json({"retention": [asdict(row) for row in measure_retention(config)]}))


def _judges(config: settings.JudgesConfig) -> None:
    from delora_eval.trial.command import print_judges

    print_judges(config)


def _masks(config: settings.MasksConfig) -> None:
    from delora_eval.masking.make import make_masks

    print(make_masks(config))


def _maps(config: ShowMapsConfig) -> None:
    from delora_eval.maps.show import show_maps

    print("\n".join(show_maps(config)))


def _score_maps(config: ScoreMapsConfig) -> None:
    from delora_eval.maps.score import score_maps

    print("\n".join(score_maps(config)))


def _benchmark_maps(config: MapBenchmarkConfig) -> None:
    from delora_eval.maps.table_run import run_map_benchmark

    print(f"report: {run_map_benchmark(config)}")


def _plan_maps(config: MapBenchmarkConfig) -> None:
    from delora_eval.maps.outlook import describe_benchmark

    print("\n".join(describe_benchmark(config)))


COMMANDS = {
    "score": Command(
        summary="Score images against photos: DINO, CLIP-I, CLIP-T, diversity, copies, drift.",
        config=settings.ScoreConfig,
        run=_score,
        run_json=_score_json,
        positional=("run",),
        example="delora-sd score runs/rex protocol=oft",
    ),
    "report": Command(
        summary="Write one self-contained HTML page about a run or a benchmark.",
        config=settings.ReportConfig,
        run=_report,
        positional=("run",),
        example="delora-sd report runs/rex",
    ),
    "choose": Command(
        summary="Choose the best checkpoint of a run by held-out photos and prompts, export it and say why.",
        config=settings.ChooseConfig,
        run=_choose,
        positional=("run",),
        example="delora-sd choose runs/rex",
    ),
    "retention": Command(
        summary="Score each subject with its own adapter and with several added up: what combining costs.",
        config=settings.RetentionConfig,
        run=_retention,
        run_json=_retention_json,
        many="runs",
        example="delora-sd retention runs/rex runs/tom combined=both.safetensors",
    ),
    "benchmark": Command(
        summary="Train, generate and score a grid of methods, subjects, seeds and settings, then report it.",
        config=BenchmarkConfig,
        run=_benchmark,
        dry_run=_plan,
        example="delora-sd benchmark configs/benchmark/table3.yaml output_dir=runs/table3",
    ),
    "status": Command(
        summary="What is finished, running, failed and left, in a run or a benchmark.",
        config=StatusConfig,
        run=_status,
        run_json=_status_json,
        positional=("folder",),
        example="delora-sd status runs/table3",
    ),
    "judges": Command(
        summary="What each judge can tell apart on real photos: AUC, retrieval, agreement with people.",
        config=settings.JudgesConfig,
        run=_judges,
        positional=("dataset",),
        example="delora-sd judges miniature lookalikes=40",
    ),
    "masks": Command(
        summary="Make masks of photos with a segmenter, and a page that shows them; edited ones are kept.",
        config=settings.MasksConfig,
        run=_masks,
        positional=("photos",),
        example="delora-sd masks data/dreambooth/dog class_word=dog",
    ),
    "maps": Command(
        summary="Show semantic maps and their photos side by side.",
        config=ShowMapsConfig,
        run=_maps,
        positional=("data.dataset",),
        example="delora-sd maps miniature count=12",
    ),
    "score-maps": Command(
        summary="Judge images drawn from maps: pixel and class accuracy, mIoU, FID, KID.",
        config=ScoreMapsConfig,
        run=_score_maps,
        positional=("images",),
        example="delora-sd score-maps pictures data.dataset=data/ADEChallengeData2016 data.captions=scenes",
    ),
    "benchmark-maps": Command(
        summary="Train, draw and judge the rows of a table on semantic maps (Table 2), then report it.",
        config=MapBenchmarkConfig,
        run=_benchmark_maps,
        dry_run=_plan_maps,
        example="delora-sd benchmark-maps configs/benchmark/miniature_table2.yaml output_dir=runs/miniature_table2",
    ),
    "protocols": Command(
        summary="The Real Images row under every protocol, beside the published rows.",
        config=settings.ProtocolsConfig,
        run=_protocols,
        positional=("dataset",),
        example="delora-sd protocols data/dreambooth",
    ),
}
