"""The table, its files, the figure, the sheet of images and the page: written from scores alone."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from delora_eval.maps.rows import NO_CONTROL, REAL, Row, shared_training
from delora_eval.maps.settings import MapBenchmarkConfig
from delora_eval.maps.sheet import Sheet, draw_sheet, sheet_png
from delora_eval.pages.drawing import SOFT, Drawing, draw, look
from delora_eval.pages.render import render_page
from delora_eval.pages.tables import Table, render_csv, render_latex, render_markdown
from delora_sd.config.load import read_yaml, to_yaml
from delora_sd.errors import UserError, nearest_name
from delora_sd.files.run_folder import write_bytes, write_text
from delora_sd.maps.dataset import MINIATURE, MapSet

MISSING = "–"

Scores = Mapping[str, Mapping[str, Any]]
"""{row: its scores}"""

SOLVERS = {"ddim": "DDIM", "own": "the base's solver"}

LABELS = {REAL: "Real photos", NO_CONTROL: "Base, maps not shown"}


def published(name: str | None) -> dict[str, Any]:
    """Returns {title, notes, rows} of a published table, {} for none."""
    if name is None:
        return {}
    if name not in _papers():
        raise UserError(f"paper={name}: not known{nearest_name(name, tuple(_papers()))}")
    return _papers()[name]


@cache
def _papers() -> dict[str, Any]:
    return read_yaml(Path(__file__).with_name("paper.yaml"))


def write_report(
    config: MapBenchmarkConfig, rows: Sequence[Row], scores: Scores, *, folder: Path, map_set: MapSet
) -> Path:
    """Writes tables, figure, sheet and page; returns the page."""
    tables = [results_table(config, rows, scores), classes_table(config, rows, scores, map_set)]
    for table in tables:
        write_text(folder / "tables" / f"{table.name}.md", render_markdown(table))
        write_text(folder / "tables" / f"{table.name}.csv", render_csv(table))
        write_text(folder / "tables" / f"{table.name}.tex", render_latex(table))
    figure = agreement_figure(rows, scores)
    write_bytes(folder / "figures" / f"{figure.name}.svg", figure.svg)
    write_bytes(folder / "figures" / f"{figure.name}.png", figure.png)
    sheet = draw_sheet(map_set, _sets(rows, scores), count=config.sheet_maps)
    write_bytes(folder / "figures" / "sheet.png", sheet_png(sheet))
    page = folder / "report.html"
    write_text(page, _render(config, tables, figure, sheet, scores))
    return page


def results_table(config: MapBenchmarkConfig, rows: Sequence[Row], scores: Scores) -> Table:
    """Returns mIoU, accuracies, FID and KID of every row; published numbers beside ours where they are asked for."""
    paper = published(config.paper)
    known = paper.get("rows", {})
    columns = ["Row", "Trained", "Rate", "mIoU", "mIoU (absent = 0)", "Pixel acc.", "Class acc.", "FID", "KID x 1000"]
    body = []
    for name, label in _labels(rows):
        found = scores[name]
        cells = [label, _count(found), _rate(found)]
        cells += [_percent(found[key]) for key in ("miou_present", "miou_all", "pixel_accuracy", "class_accuracy")]
        apart = {} if name == REAL else found  # the photos are not compared with themselves
        cells += [_distance(apart, "fid", 1.0, 2), _distance(apart, "kid", 1000.0, 2)]
        body.append((*cells, *(_published(known.get(name)) if paper else ())))
    if paper:
        columns += ["Published mIoU", "acc.", "FID", "by"]
    return Table(
        name="results", title=config.title, columns=tuple(columns), rows=tuple(body), notes=_notes(config, rows, scores)
    )


def classes_table(config: MapBenchmarkConfig, rows: Sequence[Row], scores: Scores, map_set: MapSet) -> Table:
    """Returns the intersection over union of every class and row."""
    labels = _labels(rows)
    body = []
    for index, name in enumerate(map_set.palette.names):
        shares = [scores[row]["classes"][index] for row, _ in labels]
        if any(share is not None for share in shares):
            body.append((name, *(MISSING if share is None else _percent(share) for share in shares)))
    return Table(
        name="classes",
        title="Intersection over union by class, %",
        columns=("Class", *(label for _, label in labels)),
        rows=tuple(body),
    )


def agreement_figure(rows: Sequence[Row], scores: Scores) -> Drawing:
    """Returns mIoU of every row as bars, the real photos' as a line."""
    labels = [(name, label) for name, label in _labels(rows) if name != REAL]

    def paint(figure: Any, axes: list[Any]) -> None:
        axis, values = axes[0], [100 * scores[name]["miou_present"] for name, _ in labels]
        places = range(len(labels))
        axis.barh(
            places, values, color=[look(0 if name == NO_CONTROL else 1)["color"] for name, _ in labels], height=0.62
        )
        for place, value in zip(places, values, strict=True):
            axis.annotate(
                f"{value:.1f}", (value, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8
            )
        axis.axvline(100 * scores[REAL]["miou_present"], color=SOFT, linestyle=(0, (4, 3)), linewidth=1)
        axis.set_yticks(list(places), [label for _, label in labels])
        axis.invert_yaxis()
        axis.grid(axis="y", visible=False)
        axis.set_xlabel("mIoU, %")

    caption = (
        "How much of each map the segmenter finds again in the images; the line is what it finds in the real photos."
    )
    return draw("agreement", "Agreement with the maps", caption, paint)


def _labels(rows: Sequence[Row]) -> list[tuple[str, str]]:
    return [*LABELS.items(), *((row.name, row.label) for row in rows)]


def _sets(rows: Sequence[Row], scores: Scores) -> list[tuple[str, Path]]:
    """Returns (label, folder of its images) of every row that drew some."""
    return [(label, Path(scores[name]["path"])) for name, label in _labels(rows) if "path" in scores[name]]


def _notes(config: MapBenchmarkConfig, rows: Sequence[Row], scores: Scores) -> tuple[str, ...]:
    judge = scores[REAL]["judge"]
    geometry = {"image": "maps brought to the images' size", "native": "predictions brought to the maps' size"}
    notes = [
        f"Judged by {judge['segmenter']} on {judge['num_maps']} maps of the {config.split} split, one image each; "
        f"{geometry[judge['label_geometry']]}. The first row is the segmenter on the real photos: it identifies it.",
        "mIoU: over classes that are in a map or were found; beside it with 0 for all others. Pixels of no class "
        "do not count.",
        f"Images: {SOLVERS[config.solver]}, {config.num_inference_steps} steps, "
        f"guidance {config.guidance:g} on the text only (the map is in both branches), noise of its own for every map.",
        _distance_note(scores),
    ]
    if config.search:
        factors = ", ".join(f"{factor:g}" for factor in config.search)
        notes.append(f"Rates: the best of {factors} times each row's own, by mIoU on maps of the training split.")
    notes += [f"{row.label}: {row.note}" for row in rows if row.note]
    return (*notes, *published(config.paper).get("notes", ()))


def _distance_note(scores: Scores) -> str:
    judge, real = scores[REAL]["judge"], scores[REAL]
    if judge["features"] is None:
        return "FID and KID: left out, no Inception was given (judge.inception)."
    few = f" FID is left out: {real['num_images']} images, at least {real['fewest_for_fid']} are needed."
    too_few = few if real["fid"] is None else ""
    return (
        f"FID and KID by {judge['features']}, {real['num_images']} images against as many photos. FID's bias is large "
        f"at this number, so it compares with rows of this table only; KID is unbiased.{too_few}"
    )


def _count(found: Mapping[str, Any]) -> str:
    return f"{found['trainable_parameters']:,}" if "trainable_parameters" in found else MISSING


def _rate(found: Mapping[str, Any]) -> str:
    return f"{found['lr']:g}" if found.get("lr") is not None else MISSING


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _distance(found: Mapping[str, Any], key: str, factor: float, digits: int) -> str:
    return MISSING if found.get(key) is None else f"{factor * found[key]:.{digits}f}"


def _published(known: Mapping[str, Any] | None) -> tuple[str, ...]:
    if known is None:
        return (MISSING,) * 4
    numbers = tuple(f"{known[key]:g}" if key in known else MISSING for key in ("miou", "accuracy", "fid"))
    return (*numbers, known["source"])


def _render(config: MapBenchmarkConfig, tables: Sequence[Table], figure: Drawing, sheet: Sheet, scores: Scores) -> str:
    return render_page(
        "maps.html.j2",
        assets=("page", "benchmark"),
        config=config,
        paper=published(config.paper),
        is_miniature=shared_training(config).data.dataset == MINIATURE,
        tables=tables,
        figure=figure,
        drawing=Markup(figure.inline_svg),
        sheet=sheet,
        settings=to_yaml(config),
    )
