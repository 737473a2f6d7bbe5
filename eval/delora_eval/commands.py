"""The judge's commands. Heavy imports sit inside the functions: `--help` answers at once."""

from delora_eval import settings
from delora_sd.command import Command


def _score(config: settings.ScoreConfig) -> None:
    from delora_eval.score import score

    score(config)


def _report(config: settings.ReportConfig) -> None:
    from delora_eval.page import write_report

    write_report(config)


def _protocols(config: settings.ProtocolsConfig) -> None:
    from delora_eval.protocol_table import print_protocols

    print_protocols(config)


COMMANDS = {
    "score": Command(
        summary="Score pictures against photos: DINO, CLIP-I, CLIP-T, diversity, copies, drift.",
        config=settings.ScoreConfig,
        run=_score,
        positional=("run",),
        example="delora-sd score runs/rex protocol=[dreambooth,oft]",
    ),
    "report": Command(
        summary="Write one self-contained HTML page about a run.",
        config=settings.ReportConfig,
        run=_report,
        positional=("run",),
        example="delora-sd report runs/rex",
    ),
    "protocols": Command(
        summary="The Real Images row under every protocol, beside the published rows.",
        config=settings.ProtocolsConfig,
        run=_protocols,
        positional=("dataset",),
        example="delora-sd protocols data/dreambooth",
    ),
}
