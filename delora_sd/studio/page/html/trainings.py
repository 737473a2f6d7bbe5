"""Trainings: what is planned and what it will take, what runs and how it goes."""

from collections.abc import Sequence
from pathlib import Path

from delora_sd.studio.jobs.job import Job, job_state, last_words, log_tail
from delora_sd.studio.page.html.curves import draw_curve
from delora_sd.studio.page.html.pieces import (
    button,
    command_box,
    duration,
    empty,
    esc,
    pill,
    plural,
    run_url,
    size_of_bytes,
)
from delora_sd.studio.trainings.cost import Bill
from delora_sd.studio.trainings.plan import Training
from delora_sd.studio.trainings.progress import RunView

_STATES = {
    "running": "note", "waiting": "plain", "finished": "good", "done": "good", "stopped": "warn", "failed": "bad",
    "unreadable": "bad", "interrupted": "warn", "planned": "plain",
}  # fmt: skip
_HINTS = {
    "loss": "a noisy number: the images say more",
    "boundary": "λ, how far an update may go",
    "distance": "how far the layers have moved, relative",
}
_SHOWN_RUNS = 8


def plan_card(packs: Sequence[Sequence[Training]], commands: Sequence[Sequence[str]], bill: Bill | None) -> str:
    """Returns what would be started: runs, packs, time and memory, and the commands."""
    runs = [training for pack in packs for training in pack]
    steps = sorted({training.config.training.num_steps for training in runs})
    facts = [("trainings", f"{len(runs)}"), ("steps each", ", ".join(map(str, steps))), *_bill_facts(bill)]
    shared = [pack for pack in packs if len(pack) > 1]
    lines = [_pack_line(bill, shared, packs)] if shared else []
    if bill and bill.free_bytes and bill.peak_bytes > bill.free_bytes:
        lines.append(
            f'<p class="st-notice bad">This needs about {size_of_bytes(bill.peak_bytes)}, '
            f"{size_of_bytes(bill.free_bytes)} were free: fewer at once, or a smaller batch.</p>"
        )
    names = "".join(f"<li>{esc(training.run)}</li>" for training in runs)
    cells = "".join(f"<div><dt>{esc(key)}</dt><dd>{esc(value)}</dd></div>" for key, value in facts)
    return (
        f'<div class="st-plan"><dl class="st-facts">{cells}</dl>{"".join(lines)}<ul class="st-names">{names}</ul></div>'
        + command_box(commands)
    )


def runs_panel(runs_folder: Path, views: Sequence[RunView]) -> str:
    """Returns the runs, those that move on top."""
    if not views:
        return empty("Nothing trained yet", "Choose a subject and press Start: curves and previews appear here.")
    order = {"running": 0, "waiting": 1}
    ordered = sorted(views, key=lambda view: order.get(view.state, 2))
    cards = [_run_card(runs_folder, view, is_open=number == 0) for number, view in enumerate(ordered[:_SHOWN_RUNS])]
    more = len(ordered) - _SHOWN_RUNS
    tail = f'<p class="st-soft">{plural(more, "older run")} in {esc(runs_folder)}</p>' if more > 0 else ""
    return "".join(cards) + tail


def activity_bar(jobs: Sequence[Job], views: Sequence[RunView]) -> str:
    """Returns what works now and what waits, with their stop buttons; what failed last stays until the next job."""
    states = [(job, job_state(job)) for job in jobs]
    parts = [_active(job, views) for job, state in reversed(states) if state == "running"]
    parts += [_waiting(job) for job, state in reversed(states) if state == "waiting"]
    if not parts and states and states[0][1] in ("failed", "interrupted"):
        parts = [_failed(*states[0])]
    return f'<div class="st-activity" aria-live="polite">{"".join(parts)}</div>' if parts else ""


def job_log(job: Job) -> str:
    """Returns what a job printed, folded away."""
    text = log_tail(job)
    return (
        f'<details class="st-log"><summary>What it printed</summary><pre tabindex="0">{esc(text)}</pre></details>'
        if text
        else ""
    )


def _bill_facts(bill: Bill | None) -> list[tuple[str, str]]:
    if bill is None:
        return [("time", "not measured here yet"), ("memory", "not measured here yet")]
    memory = size_of_bytes(bill.peak_bytes) if bill.peak_bytes else "not measured"
    return [("time, about", duration(bill.seconds)), ("memory, about", memory), ("on", bill.device)]


def _pack_line(bill: Bill | None, shared: Sequence[Sequence[Training]], packs: Sequence[Sequence[Training]]) -> str:
    sizes = " and ".join(str(len(pack)) for pack in shared)
    text = f"{sizes} of them train together in one batch, each as if alone"
    if bill and bill.alone_seconds > bill.seconds:
        text += (
            f": {duration(bill.seconds)} instead of {duration(bill.alone_seconds)}, "
            f"{duration(bill.alone_seconds - bill.seconds)} saved"
        )
    return f'<p class="st-notice note">{esc(text)}.</p>'


def _run_card(runs: Path, view: RunView, *, is_open: bool) -> str:
    done = view.step / view.num_steps if view.num_steps else 0.0
    left = f" · about {duration(view.seconds_left)} left" if view.seconds_left else ""
    steps = f"step {view.step} of {view.num_steps}{left}" if view.num_steps else ""
    head = (
        f"<summary><b>{esc(view.name)}</b>{pill(_STATES.get(view.state, 'plain'), view.state)}"
        f'<span class="st-soft">{esc(steps)}</span></summary>'
    )
    body = _meter(done, view.state) + (f'<p class="st-notice bad">{esc(view.problem)}</p>' if view.problem else "")
    body += _curves(view) + _previews(runs, view) + f'<div class="st-row">{_run_buttons(view)}</div>'
    body += (command_box(view.job.commands, title="The command") + job_log(view.job)) if view.job else ""
    return f'<details class="st-run" data-key="{esc(view.name)}"{" open" if is_open else ""}>{head}{body}</details>'


def _meter(done: float, state: str) -> str:
    percent = round(100 * min(1.0, done))
    return (
        f'<div class="st-meter {esc(state)}" role="progressbar" aria-label="done" aria-valuenow="{percent}" '
        f'aria-valuemin="0" aria-valuemax="100"><i style="width:{percent}%"></i></div>'
    )


def _curves(view: RunView) -> str:
    figures = [
        draw_curve(key, curve, last_step=view.num_steps, smooth=key == "loss", hint=_HINTS[key])
        for key, curve in view.curves.items()
        if len(curve) > 1
    ]
    return f'<div class="st-curves">{"".join(figures)}</div>' if figures else ""


def _previews(runs: Path, view: RunView) -> str:
    if not view.previews:
        return ""
    rows = []
    for step, files in reversed(list(view.previews.items())):
        images = "".join(
            f'<img src="{esc(run_url(runs, file))}" alt="preview at step {step}" loading="lazy">' for file in files
        )
        rows.append(f'<div class="st-preview"><span>step {step}</span><div>{images}</div></div>')
    return f'<div class="st-previews">{"".join(rows)}</div>'


def _run_buttons(view: RunView) -> str:
    if view.state in ("running", "waiting") and view.job:
        label = "Stop" if len(view.job.runs) == 1 else f"Stop all {len(view.job.runs)} of the pack"
        return button(label, "stop", name=view.job.name, kind="stop")
    if view.state in ("stopped", "interrupted", "failed") and view.job:
        return button("Resume", "again", name=view.job.name, kind="go")
    return ""


def _active(job: Job, views: Sequence[RunView]) -> str:
    own = [view for view in views if view.name in job.runs and job.kind == "train" and view.num_steps]
    done = min((view.step / view.num_steps for view in own), default=None)
    text = last_words(job) if done is None else f"step {own[0].step} of {own[0].num_steps}"
    stops = "asked to stop …" if job.stop_file.exists() else ""
    meter = "" if done is None else _meter(done, "running")
    action = "" if stops else button("Stop", "stop", name=job.name, kind="stop", title=f"Stop {job.title}")
    return (
        f'<div class="st-job running"><span class="st-spin" aria-hidden="true"></span><b>{esc(job.kind)}</b> '
        f"<span>{esc(job.title)}</span><small>{esc(stops or text)}</small>{meter}{action}</div>"
    )


def _waiting(job: Job) -> str:
    return (
        f'<div class="st-job"><b>{esc(job.kind)}</b> <span>{esc(job.title)}</span><small>waits</small>'
        + button("Take off", "stop", name=job.name, kind="quiet", title=f"Take {job.title} off the queue")
        + "</div>"
    )


def _failed(job: Job, state: str) -> str:
    why = last_words(job) if state == "failed" else "the machine or its worker ended; resume to go on"
    return (
        f'<div class="st-job failed"><b>{esc(job.kind)}</b> <span>{esc(job.title)}</span><small>{esc(why)}</small>'
        + button("Try again", "again", name=job.name, kind="go")
        + "</div>"
    )
