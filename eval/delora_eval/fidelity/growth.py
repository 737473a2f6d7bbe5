"""Where the boundaries go: C10, from the logs of trainings that another claim needs anyway."""

import re
import statistics
from typing import Any

from delora_eval.benchmark.report.numbers.rows import Row
from delora_eval.benchmark.report.numbers.view import BenchmarkView
from delora_eval.fidelity.claim import Claim
from delora_eval.pages.drawing import Drawing, draw, look
from delora_eval.pages.tables import Table
from delora_sd.config.deciding import read_run_settings

_LAYER = re.compile(r"^(down_blocks\.\d+|mid_block|up_blocks\.\d+)\..*\.(attn[12])\.to_(q|k|v|out)")

Growth = dict[str, dict[str, float]]
"""{projection: {block: λ at the end over λ at the start}}, as in {"attn2 v": {"down 0": 1.4}}."""


def boundary_growth(view: BenchmarkView) -> Claim | None:
    """C10: how many times its start each boundary is when training ends, by projection and block; None without logs."""
    row = next(row for row in view.main.rows if row.method == "delora")
    growth = mean_growth(view, row)
    if not growth:
        return None
    means = {projection: statistics.fmean(blocks.values()) for projection, blocks in growth.items()}
    low, high = min(means, key=means.get), max(means, key=means.get)
    return Claim(
        number="C10",
        text="Training decides which layers' boundaries grow (Fig. 4's question, asked of what was learned).",
        verdict=f"From {means[low]:.2f} times the start ({low}) to {means[high]:.2f} times ({high})",
        findings=(f"{row.title}: λ at the end over λ at the start, mean over the layers of a block and over cells",),
        table=_growth_table(growth),
        drawings=(_growth_figure(growth),),
    )


def mean_growth(view: BenchmarkView, row: Row) -> Growth:
    """Returns the growth of every boundary by projection and block, from the last log line of each run."""
    found: dict[str, dict[str, list[float]]] = {}
    for run in view.runs(row):
        start = read_run_settings(run.config).adapter.boundary
        described = [event["layers"] for event in run.read_events() if "layers" in event]
        for layer, facts in (described[-1] if described else {}).items():
            place = place_of(layer)
            if place and facts.get("boundary") is not None:
                block, projection = place
                found.setdefault(projection, {}).setdefault(block, []).append(facts["boundary"] / start)
    return {
        projection: {block: statistics.fmean(blocks[block]) for block in sorted(blocks, key=_depth)}
        for projection, blocks in sorted(found.items())
    }


def place_of(layer: str) -> tuple[str, str] | None:
    """`down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v` is ("down 0", "attn2 v"); None for other layers."""
    found = _LAYER.match(layer)
    if found is None:
        return None
    return found[1].replace("_blocks.", " ").replace("mid_block", "mid"), f"{found[2]} {found[3]}"


def _depth(block: str) -> tuple[int, str]:
    """Down, middle, up: the order of the forward pass."""
    return ("down", "mid", "up").index(block.split()[0]), block


def _growth_table(growth: Growth) -> Table:
    blocks = sorted({block for blocks in growth.values() for block in blocks}, key=_depth)
    return Table(
        name="growth",
        title="λ at the end over λ at the start",
        columns=("Projection", *blocks),
        rows=tuple(
            (name, *(f"{own[block]:.2f}" if block in own else "–" for block in blocks)) for name, own in growth.items()
        ),
    )


def _growth_figure(growth: Growth) -> Drawing:
    def paint(figure: Any, axes: list[Any]) -> None:
        axis = axes[0]
        for index, (projection, blocks) in enumerate(growth.items()):
            axis.plot(list(blocks), list(blocks.values()), label=projection, **look(index))
        axis.axhline(1.0, linestyle=(0, (4, 3)), linewidth=1, color="#6b6861")
        axis.set_ylabel("λ at the end / λ at the start")
        axis.legend(ncols=2, fontsize=8)

    return draw(
        "growth",
        "Which boundaries grow",
        "attn1: self-attention, attn2: cross-attention. Dashed: the boundary training began with.",
        paint,
    )
