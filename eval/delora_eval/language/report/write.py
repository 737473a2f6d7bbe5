"""Writes a language table's report: Markdown, CSV, LaTeX, figures and one HTML page."""

from markupsafe import Markup

from delora_eval.language.folder import Result, TableFolder
from delora_eval.language.grid import Cell
from delora_eval.language.report.figure import robustness_figure
from delora_eval.language.report.rows import build_rows, collect
from delora_eval.language.report.tables import certainty_table, columns_of, scores_table, settings_table
from delora_eval.language.settings import LanguageConfig
from delora_eval.pages.drawing import Drawing
from delora_eval.pages.render import render_page
from delora_eval.pages.tables import Table, escape_markdown, render_csv, render_latex, render_markdown
from delora_sd.config.load import to_yaml
from delora_sd.files.run_folder import write_bytes, write_text
from delora_sd.language.data.glue import MINIATURE

MINIATURE_BANNER = "MINIATURE: a toy language. Its numbers compare with each other and with nothing else."


def report_table(config: LanguageConfig, folder: TableFolder, cells: list[Cell]) -> None:
    """Writes the report of the cells that are finished."""
    found = collect(folder, cells)
    rows = build_rows(found, columns_of(config))
    tables = [scores_table(config, rows, found), certainty_table(config, rows, found), settings_table(config, found)]
    figure = robustness_figure(rows)
    for table in tables:
        write_text(folder.tables / f"{table.name}.md", render_markdown(table))
        write_text(folder.tables / f"{table.name}.csv", render_csv(table))
        write_text(folder.tables / f"{table.name}.tex", render_latex(table))
    if figure:
        write_bytes(folder.figures / f"{figure.name}.svg", figure.svg)
        write_bytes(folder.figures / f"{figure.name}.png", figure.png)
    is_miniature = any(cell.training.model.base == MINIATURE for cell in cells)
    write_text(folder.markdown, _summary(config, tables, figure, is_miniature))
    write_text(folder.page, _page(config, found, tables, figure, is_miniature))


def _summary(config: LanguageConfig, tables: list[Table], figure: Drawing | None, is_miniature: bool) -> str:
    lines = [f"# {escape_markdown(config.title)}", ""]
    if is_miniature:
        lines += [f"**{MINIATURE_BANNER}**", ""]
    if figure:
        lines += [f"![{figure.title}](figures/{figure.name}.png)", "", f"*{figure.title}. {figure.caption}*", ""]
    return "\n".join(lines + [render_markdown(table) for table in tables])


def _page(
    config: LanguageConfig, found: list[tuple[Cell, Result | None]], tables: list[Table], figure: Drawing | None,
    is_miniature: bool,
) -> str:  # fmt: skip
    finished = [result for _, result in found if result]
    return render_page(
        "language.html.j2",
        title=config.title,
        banner=MINIATURE_BANNER if is_miniature else "",
        facts={
            "Base model": ", ".join(sorted({cell.training.model.base for cell, _ in found})),
            "Seeds": ", ".join(map(str, config.seeds)),
            "Cells": f"{len(finished)} of {len(found)} finished",
            "Protocol": config.protocol if config.table == "glue" else f"chosen by {config.choose.replace('_', ' ')}",
        },
        tables=tables,
        figure=figure,
        drawing=Markup(figure.inline_svg) if figure else "",
        provenance=_provenance(finished),
        settings=to_yaml(config),
    )


def _provenance(finished: list[Result]) -> dict[str, str]:
    """Versions, weights and devices; what differs between cells shows every variant."""
    found: dict[str, set[str]] = {}
    for result in finished:
        facts = {f"version of {name}": value for name, value in result.versions.items()}
        for key, value in (facts | {"weights": result.weights, "device": result.device}).items():
            found.setdefault(key, set()).add(str(value))
    return {key: ", ".join(sorted(values)) for key, values in found.items()}
