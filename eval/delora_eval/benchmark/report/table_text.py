"""Numbers as the cells of a table show them."""

import math

from delora_eval.benchmark.report.rows import Row, RowScore
from delora_eval.scoring.measures.statistics import Estimate

MISSING = "–"


def show_score(score: RowScore | None) -> str:
    """`0.686 ± 0.0056 (0.693)`: mean, spread and best over seeds."""
    if score is None:
        return MISSING
    spread = score.seeds
    if spread.count < 2:
        return f"{spread.mean:.3f}"
    digits = 3 if spread.std >= 0.01 else 4
    return f"{spread.mean:.3f} ± {spread.std:.{digits}f} ({spread.best:.3f})"


def show_interval(estimate: Estimate) -> str:
    """`0.609 – 0.761`."""
    return f"{estimate.low:.3f} – {estimate.high:.3f}" if estimate.count > 1 else MISSING


def show_difference(estimate: Estimate) -> str:
    """`+0.009 [-0.084, +0.095]`, with a star when the interval leaves out 0."""
    if estimate.count < 2:
        return f"{estimate.mean:+.3f} (one subject)"
    return f"{estimate.mean:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]{' *' if estimate.excludes_zero else ''}"


def show_pair(row: Row, subject: str, scores: tuple[str, str]) -> str:
    """`0.700 / 0.310`: subject and prompt fidelity of one subject."""
    values = [row.scores[score].by_subject.get(subject) if score in row.scores else None for score in scores]
    return " / ".join(MISSING if value is None or math.isnan(value) else f"{value:.3f}" for value in values)


def show_paper(known: dict, score: str) -> str:
    """A score as the paper prints it."""
    if score not in known:
        return MISSING
    text = f"{known[score]:.3f}"
    if f"{score}_std" in known:
        text += f" ± {known[f'{score}_std']:.4f}"
    return text + (f" ({known[f'{score}_best']:.3f})" if f"{score}_best" in known else "")


def show_count(count: int | None) -> str:
    """`3.2M`."""
    if count is None:
        return MISSING
    return f"{count / 1e6:.1f}M" if count >= 1e5 else f"{count:,}"


def show_bytes(count: int | None) -> str:
    """`12.80 MB`."""
    if count is None:
        return MISSING
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB" if count >= 1e4 else f"{count} B"


def show_seconds(seconds: float | None) -> str:
    """`23.9 min`."""
    if seconds is None:
        return MISSING
    return f"{seconds / 60:.1f} min" if seconds >= 100 else f"{seconds:.1f} s"
