"""Which of the paper's claims hold on the bundled miniature: small benchmarks, then docs/FIDELITY.md.

    python -m delora_eval.fidelity                          # all of it; the same command again resumes
    python -m delora_eval.fidelity --studies test rates     # some of it
    python -m delora_eval.fidelity --page-only              # the page from what is finished

Every study is a benchmark of configs/benchmark/miniature_fidelity_*.yaml with its own report in its folder: search
(the settings), test (C1, C10), rates (C2), long (C3), norm (C4), ladder (C5), starts (C6, C7), merge (C8: adapters
added up in pairs); strength (C9) draws the adapters of test again. Several copies of this command may run at once on
one folder; they share the work. Settings for all studies can be added: `seeds=[0]` for a first look.
"""

import argparse
import os
from pathlib import Path

from delora_eval.benchmark.folder import BenchmarkFolder
from delora_eval.benchmark.report.numbers.view import BenchmarkView, read_view
from delora_eval.benchmark.run.cell.stages import real_stages
from delora_eval.benchmark.run.workers.launchers import MakeStages, run_benchmark
from delora_eval.benchmark.settings import BenchmarkConfig
from delora_eval.fidelity.claims import CLAIMS
from delora_eval.fidelity.page import write_page
from delora_eval.fidelity.pairs import draw_pairs
from delora_eval.fidelity.showcase import draw_showcase, showcase_sheets
from delora_eval.fidelity.strength import draw_strengths, strength_robustness
from delora_sd.config.load import load_config
from delora_sd.files.run_folder import write_bytes

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "configs" / "benchmark"
STUDIES = {
    "search": "settings",
    "test": "C1, C10",
    "rates": "C2",
    "long": "C3",
    "norm": "C4",
    "ladder": "C5",
    "starts": "C6, C7",
    "merge": "C8",
}
"""{study, a benchmark: what it answers}."""
STRENGTH = "strength"


def main(words: list[str] | None = None, make_stages: MakeStages = real_stages) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="settings of every benchmark, key=value")
    parser.add_argument("--studies", nargs="+", choices=(*STUDIES, STRENGTH), default=[*STUDIES, STRENGTH])
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "fidelity", help="folder of the benchmarks")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "FIDELITY.md")
    parser.add_argument("--page-only", action="store_true", help="train nothing")
    arguments = parser.parse_args(words)
    if not arguments.page_only:
        for name in (name for name in arguments.studies if name != STRENGTH):
            folder = run_benchmark(_config(name, arguments.output, arguments.settings), make_stages)
            if name == "merge":
                draw_pairs(folder, make_stages)
        if STRENGTH in arguments.studies and (tested := _finished(arguments.output / "test")):
            draw_strengths(tested, arguments.output / STRENGTH)
    views = {name: view for name in STUDIES if (view := _finished(arguments.output / name))}
    if not views:
        parser.error(f"{arguments.output}: no study is finished yet; run without --page-only")
    asked = [(views[name], make) for name, makes in CLAIMS.items() if name in views for make in makes]
    answers = [(view, claim) for view, make in asked if (claim := make(view))]
    if "test" in views and (claim := strength_robustness(views["test"], arguments.output / STRENGTH)):
        answers.append((views["test"], claim))
    missing = [f"{name} ({numbers})" for name, numbers in STUDIES.items() if name not in views]
    machine = f"{os.cpu_count()} CPU cores"
    write_page(answers, arguments.page, arguments.page.parent / "img", machine=machine, missing=missing)
    if "test" in views:
        row = next(row for row in views["test"].main.rows if row.method == "delora")
        picture = draw_showcase(showcase_sheets(views["test"], row), row)
        write_bytes(arguments.page.parent / "img" / "miniature_delora.png", picture)
    print(f"page: {arguments.page} ({', '.join(views)})")


def _config(name: str, output: Path, settings: list[str]) -> BenchmarkConfig:
    file = CONFIGS / f"miniature_fidelity_{name}.yaml"
    return load_config(BenchmarkConfig, [file], [f"output_dir={output / name}", *settings])


def _finished(folder: Path) -> BenchmarkView | None:
    """The study in the folder, None unless each of its cells has ended."""
    if not BenchmarkFolder(folder).is_benchmark():
        return None
    view = read_view(BenchmarkFolder(folder))
    return view if set(view.states.values()) <= {"finished", "diverged", "failed"} else None
