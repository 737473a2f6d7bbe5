"""A table of text cells, and its Markdown, CSV and LaTeX. It knows nothing of benchmarks."""

import csv
import io
from dataclasses import dataclass, field

_LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "λ": r"$\lambda$",
    "−": "$-$",
    "–": "--",
}


@dataclass(frozen=True, kw_only=True)
class Table:
    """Text cells under headings; the first `text_columns` are words, the others numbers."""

    name: str
    """File name without ending."""
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int = 1
    notes: tuple[str, ...] = ()
    tags: tuple[dict[str, str], ...] = field(default=())
    """Per row what a page may filter by, such as {"subject": "dog"}; () when nothing."""


def render_text(table: Table) -> str:
    """Returns the table for a terminal: aligned columns under its title, then its notes."""
    rows = [table.columns, *table.rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.columns))]
    lines = [
        "  ".join(
            cell.ljust(width) if column < table.text_columns else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([table.title, *lines, *table.notes])


def render_markdown(table: Table) -> str:
    """Returns a GitHub table with its title and notes."""
    aligned = [":--" if place < table.text_columns else "--:" for place in range(len(table.columns))]
    lines = [_markdown_row(table.columns), _markdown_row(aligned), *map(_markdown_row, table.rows)]
    notes = [f"- {escape_markdown(note)}" for note in table.notes]
    return "\n".join([f"### {escape_markdown(table.title)}", "", *lines, *([""] if notes else []), *notes, ""])


def render_csv(table: Table) -> str:
    """Returns the cells as CSV (RFC 4180, \\n line ends). A cell that a spreadsheet would run is quoted as text."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows([_harmless(cell) for cell in row] for row in table.rows)
    return buffer.getvalue()


def render_latex(table: Table) -> str:
    """Returns a `table` environment with booktabs rules."""
    columns = "l" * table.text_columns + "r" * (len(table.columns) - table.text_columns)
    body = [" & ".join(map(_escape_latex, row)) + r" \\" for row in (table.columns, *table.rows)]
    notes = " ".join(table.notes)
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escape_latex(f'{table.title}. {notes}'.strip())}}}",
            rf"\label{{tab:{table.name}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            body[0],
            r"\midrule",
            *body[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _markdown_row(cells) -> str:
    return "| " + " | ".join(escape_markdown(cell) for cell in cells) + " |"


def escape_markdown(text: str) -> str:
    """Prompts are somebody's text: neither a bar nor HTML may leave its cell."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", " ")


def _escape_latex(text: str) -> str:
    return "".join(_LATEX_SPECIAL.get(character, character) for character in text)


def _harmless(cell: str) -> str:
    is_number = cell.lstrip("+-").replace(".", "", 1).replace("e", "", 1).replace("-", "", 1).isdigit()
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@") and not is_number and len(cell) > 1 else cell
