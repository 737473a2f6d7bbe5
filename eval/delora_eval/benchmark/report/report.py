"""`delora-sd report BENCHMARK`: Markdown, CSV, LaTeX, figures and one HTML page.

Written again only when something it is made from changed.
"""

import hashlib
from pathlib import Path

from delora_eval.benchmark.folder import BenchmarkFolder, read_plan
from delora_eval.benchmark.report.contents import build_tables, scores_csv
from delora_eval.benchmark.report.figures.figures import build_figures
from delora_eval.benchmark.report.figures.sheets import build_sheets
from delora_eval.benchmark.report.numbers.view import BenchmarkView, read_view
from delora_eval.benchmark.report.page import render_benchmark
from delora_eval.pages.drawing import Drawing
from delora_eval.pages.tables import Table, escape_markdown, render_csv, render_latex, render_markdown
from delora_sd import __version__
from delora_sd.files.run_folder import read_json, write_bytes, write_json, write_text


def report_benchmark(folder: BenchmarkFolder) -> Path:
    """Writes the report of what is there so far; returns the page."""
    inputs = _fingerprint(folder)
    if not folder.report.exists() or not folder.inputs.exists() or read_json(folder.inputs) != {"inputs": inputs}:
        _write(read_view(folder))
        write_json(folder.inputs, {"inputs": inputs})
    print(f"report: {folder.report}")
    return folder.report


def render_summary(view: BenchmarkView, tables: list[Table], figures: list[Drawing]) -> str:
    """Returns the report as Markdown; figures are files beside it."""
    lines = [f"# {escape_markdown(view.config.title)}", ""]
    if view.is_random:
        lines += ["**RANDOM WEIGHTS: these numbers prove that the pipeline runs and mean nothing else.**", ""]
    if view.is_miniature:
        lines += [
            "**MINIATURE: a small bundled world. Its numbers compare with each other and with nothing else.**",
            "",
        ]
    for figure in [each for number, each in enumerate(figures) if not each.choice or number == 0]:
        lines += [f"![{figure.title}](figures/{figure.name}.png)", "", f"*{figure.title}. {figure.caption}*", ""]
    return "\n".join(lines + [render_markdown(table) for table in tables])


def _write(view: BenchmarkView) -> None:
    tables, figures = build_tables(view), build_figures(view)
    folder = view.folder
    for table in tables:
        write_text(folder.tables / f"{table.name}.md", render_markdown(table))
        write_text(folder.tables / f"{table.name}.tex", render_latex(table))
    for table in (*tables, scores_csv(view)):
        write_text(folder.tables / f"{table.name}.csv", render_csv(table))
    for figure in figures:
        write_bytes(folder.figures / f"{figure.name}.svg", figure.svg)
        write_bytes(folder.figures / f"{figure.name}.png", figure.png)
    write_text(folder.markdown, render_summary(view, tables, figures))
    write_text(folder.report, render_benchmark(view, tables, figures, build_sheets(view)))


def _fingerprint(folder: BenchmarkFolder) -> str:
    """Returns the hash of everything the report is made from."""
    digest = hashlib.sha256(__version__.encode())
    cells = [cell for cells in read_plan(folder).values() for cell in cells]
    runs = [folder.run(cell) for cell in cells]
    files = [folder.config, folder.plan, folder.chosen, folder.norms]
    files += [file for run in runs for file in (run.path / "outcome.json", run.scores, run.manifest, run.events)]
    for file in files:
        digest.update(file.read_bytes() if file.exists() else b"missing")
    return digest.hexdigest()
