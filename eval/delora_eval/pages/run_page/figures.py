"""The curves of one run, from its events."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from delora_eval.pages.charts import Line, Rule, line_chart, smooth
from delora_eval.pages.run_page.data import RunPage

SMOOTHING = 0.08
"""Width of the running mean of a noisy curve, as a share of its points."""

PARTS = {
    "down_blocks": ("encoder", "series-1"),
    "mid_block": ("middle", "series-4"),
    "up_blocks": ("decoder", "series-2"),
}
"""{start of a layer's name in the UNet: (name, look)}."""

PROJECTIONS = {
    "to_q": "series-1",
    "to_k": "series-2",
    "to_v": "series-3",
    "to_out.0": "series-4",
}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart with its words."""

    title: str
    text: str
    svg: Markup
    legend: tuple[tuple[str, str], ...] = ()
    """(name, look) of each colour."""


def draw_run(page: RunPage) -> list[Figure]:
    """Returns the figures for which the run has data."""
    drawn = [
        _loss(page),
        _layers(
            page, "relative_distance", "distance", "Distance from the pretrained model", "||ΔW|| / ||W|| per layer."
        ),
        _layers(
            page, "boundary", "boundary", "Boundary", "DeLoRA's λ per layer: the bound the update's norm cannot pass."
        ),
        _depth(page),
        _over_steps(page),
        _series(page, "grad_norm", "Gradient norm", "Before clipping."),
        _series(page, "images_per_second", "Speed", "Photos and class images per second."),
        _series(page, "lr", "Learning rate", "As scheduled."),
    ]
    return [figure for figure in drawn if figure is not None]


def _loss(page: RunPage) -> Figure | None:
    points = _points(page.events, "loss")
    if not points:
        return None
    lines = [
        Line(points=points, look="faint"),
        Line(points=smooth(points, window=max(1, round(len(points) * SMOOTHING))), label="loss"),
    ]
    text = "Noise-prediction error; it depends mostly on the timesteps drawn, so read the trend (bold), not the values."
    return Figure(title="Loss", text=text, svg=line_chart(lines, title="Loss over steps", x_label="step"))


def _layers(page: RunPage, per_layer: str, mean: str, title: str, text: str) -> Figure | None:
    """Thin lines: every layer at its checkpoints. Bold: the mean of all."""
    lines, parts = [], {}
    for name in _layer_names(page, per_layer):
        part, look = _part(name)
        parts[part] = look
        points = [(event["step"], event["layers"][name][per_layer]) for event in page.layers if name in event["layers"]]
        lines.append(Line(points=points, label=name, look=f"layer {look}"))
    average = _points(page.events, mean)
    if not average and not lines:
        return None
    lines.append(Line(points=average, label="mean"))
    legend = (("mean of all layers", "main"), *parts.items()) if parts else ()
    chart = line_chart(lines, title=f"{title} over steps", x_label="step", from_zero=per_layer != "boundary")
    return Figure(title=title, text=text, svg=chart, legend=legend)


def _depth(page: RunPage) -> Figure | None:
    """How far each layer moved, from the UNet's input to its output."""
    names = _layer_names(page, "relative_distance")
    if len(names) < 2:
        return None
    last = page.layers[-1]
    points: dict[str, list[tuple[float, float]]] = {}
    for index, name in enumerate(names, start=1):
        if name in last["layers"]:
            kind = next((kind for kind in PROJECTIONS if name.endswith(kind)), "other")
            points.setdefault(kind, []).append((index, last["layers"][name]["relative_distance"]))
    lines = [
        Line(points=values, label=kind, look=PROJECTIONS.get(kind, "series-6"), dots=True)
        for kind, values in sorted(points.items(), key=lambda item: [*PROJECTIONS, "other"].index(item[0]))
    ]
    chart = line_chart(lines, title="Distance by layer", x_label="layer, input to output", from_zero=True)
    return Figure(
        title="Where the model moved",
        text=f"||ΔW|| / ||W|| of each of {len(names)} layers at step {last['step']:,}.",
        svg=chart,
        legend=tuple((line.label, line.look) for line in lines),
    )


def _series(page: RunPage, key: str, title: str, text: str) -> Figure | None:
    points = _points(page.events, key)
    if len(points) < 2 or (key == "lr" and len({rate for _, rate in points}) == 1):
        return None
    chart = line_chart([Line(points=points, label=title)], title=title, x_label="step", from_zero=True)
    return Figure(title=title, text=text, svg=chart)


def _over_steps(page: RunPage) -> Figure | None:
    """Subject and prompt fidelity of the checkpoints that were generated from and scored."""
    sets = [view for view in page.sets if view.names_subject and not view.is_base and view.step is not None]
    scored = {name: _totals(sets, name) for name in ("dino", "clip_t")}
    if len(scored["dino"]) < 2:
        return None
    lines = [
        Line(points=scored["dino"], label=page.label("dino"), look="main"),
        Line(points=scored["clip_t"], label=page.label("clip_t"), look="series-1"),
    ]
    ceiling = page.ceiling("dino")
    rules = [] if ceiling is None else [Rule(y=ceiling, label=f"real photos ({page.label('dino')})")]
    chart = line_chart(lines, title="Scores over steps", x_label="step", rules=rules, from_zero=True)
    legend = tuple((line.label, line.look) for line in lines)
    text = "Subject and prompt fidelity of the checkpoints: the best one is a choice between the two."
    return Figure(title="Scores over training", text=text, svg=chart, legend=legend)


def _totals(sets: Sequence, name: str) -> list[tuple[float, float]]:
    return sorted((view.step, view.totals[name].value) for view in sets if name in view.totals)


def _points(events: Sequence[dict], key: str) -> list[tuple[float, float]]:
    return [(event["step"], event[key]) for event in events if event.get(key) is not None]


def _layer_names(page: RunPage, key: str) -> list[str]:
    """Returns the layers that report this number, from the UNet's input to its output."""
    if not page.layers:
        return []
    names = [name for name, facts in page.layers[-1]["layers"].items() if key in facts]
    order = list(PARTS)
    return sorted(
        names, key=lambda name: next((i for i, part in enumerate(order) if name.startswith(part)), len(order))
    )


def _part(name: str) -> tuple[str, str]:
    return next((named for start, named in PARTS.items() if name.startswith(start)), ("other", "series-6"))
