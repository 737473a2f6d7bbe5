"""The page: a masthead, what works right now, and five rooms in the order of the journey."""

from functools import partial
from pathlib import Path
from typing import Any

from delora_sd.studio.folder import StudioFolder
from delora_sd.studio.jobs.queue import do_again, list_jobs, stop_job
from delora_sd.studio.page.html.trainings import activity_bar
from delora_sd.studio.page.rooms import choose, create, photos, take_away, train
from delora_sd.studio.page.wiring import looking, make_panel, pressing
from delora_sd.studio.trainings.progress import read_runs

REFRESH_S = 2.0
"""Seconds between looks at the run folders while the page is open."""

ROOMS = {"Photos": photos, "Train": train, "Choose": choose, "Create": create, "Take away": take_away}
_QUIETLY = {"show_progress": "hidden", "api_visibility": "private"}
_STYLE = Path(__file__).with_name("studio.css")
_MASTHEAD = (
    '<header class="st-masthead"><h1><i aria-hidden="true"></i>delora_sd <em>studio</em></h1>'
    "<p>A few photos of one subject in, new images and an adapter file out, with a score you can trust.</p></header>"
)


def build_page(folder: StudioFolder) -> Any:
    """Returns the page of a folder; all it knows is what lies there."""
    import gradio as gr

    with gr.Blocks(title="delora_sd studio", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(_MASTHEAD, padding=False, apply_default_css=False)
        activity = make_panel(elem_id="activity")
        notice = gr.HTML(padding=False, apply_default_css=False)
        clock = gr.Timer(REFRESH_S)
        clocks = [gr.Timer(REFRESH_S, active=number == 0) for number in range(len(ROOMS))]
        tabs = []
        with gr.Tabs(elem_id="rooms", overflow_behavior="wrap"):
            for number, (title, module) in enumerate(ROOMS.items()):
                with gr.Tab(f"{number + 1} {title}", id=title) as tab:
                    room = module.build(folder)
                tabs.append(tab)
                enter = looking(room.enter, num_outputs=len(room.enter_outputs))
                watch = looking(room.watch, num_outputs=len(room.watch_outputs))
                for happens in (tab.select, page.load):
                    happens(enter, room.enter_inputs, room.enter_outputs, **_QUIETLY)
                clocks[number].tick(watch, room.watch_inputs, room.watch_outputs, **_QUIETLY)
        for number, tab in enumerate(tabs):
            tab.select(partial(only, number, len(tabs)), None, clocks, **_QUIETLY)
        show = looking(partial(show_activity, folder), num_outputs=1)
        for happens in (page.load, clock.tick):
            happens(show, None, activity, **_QUIETLY)
        act = pressing(partial(press_activity, folder), num_outputs=1)
        activity.click(act, None, [notice, activity], **_QUIETLY)
    return page


def only(number: int, count: int) -> list[Any]:
    """Returns the clocks of all rooms: that of the open one goes, for nobody looks at the others."""
    import gradio as gr

    return [gr.update(active=each == number) for each in range(count)]


def look() -> dict[str, Any]:
    """Returns theme, style and head of the page: system fonts, nothing from elsewhere."""
    import gradio as gr

    theme = gr.themes.Base(
        font=["ui-sans-serif", "system-ui", "sans-serif"], font_mono=["ui-monospace", "Menlo", "monospace"]
    )
    return {"theme": theme, "css": _STYLE.read_text(encoding="utf-8")}


def show_activity(folder: StudioFolder) -> str:
    """Returns what works now and what waits."""
    jobs = list_jobs(folder)
    return activity_bar(jobs, read_runs(folder) if jobs else [])


def press_activity(folder: StudioFolder, do: str, name: str, _text: str) -> tuple[str, str]:
    """Stops a job or does it again; returns what is said and what works now."""
    if do == "stop":
        stop_job(folder, name)
        said = "Asked to stop: a training finishes its step and keeps a checkpoint."
    else:
        do_again(folder, name)
        said = "In the queue again: the same command goes on where it stopped."
    return said, show_activity(folder)
