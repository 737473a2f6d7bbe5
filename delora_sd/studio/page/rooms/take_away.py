"""Fifth room: files for each tool with where to put them, the model card, the hub."""

from functools import partial
from typing import Any

from delora_sd.errors import UserError
from delora_sd.studio.folder import StudioFolder
from delora_sd.studio.jobs.job import job_state
from delora_sd.studio.jobs.queue import add_job, list_jobs
from delora_sd.studio.page.html.pieces import command_box
from delora_sd.studio.page.html.pieces import notice as say
from delora_sd.studio.page.html.results import files_panel
from delora_sd.studio.page.html.trainings import job_log
from delora_sd.studio.page.rooms.choose import LAYOUTS
from delora_sd.studio.page.wiring import Room, answering, choices, make_choice, make_panel, pressing

_LOOK = {"show_progress": "hidden", "api_visibility": "private"}


def build(folder: StudioFolder) -> Room:
    """Builds the room."""
    import gradio as gr

    notice = gr.HTML(padding=False, apply_default_css=False)
    with gr.Row(elem_classes="st-room"):
        with gr.Column(scale=1, min_width=300, elem_classes="st-form"):
            run = make_choice(label="Run", elem_id="take-run")
            licence = gr.Textbox(
                label="Licence of the base", placeholder="known for Stable Diffusion 1.5 and the miniature", max_lines=1
            )
            card = gr.Button("Write the model card", elem_id="card")
            with gr.Group(elem_classes="st-group"):
                name = gr.Textbox(label="On the hub as", placeholder="me/rex", max_lines=1)
                private = gr.Checkbox(label="Private", value=True)
                dry = gr.Button("List what would be sent", size="sm")
                push = gr.Button("Send to the hub", size="sm")
            commands = gr.HTML(padding=False, apply_default_css=False)
        with gr.Column(scale=3, min_width=300):
            panel = make_panel(elem_id="files")
            log = gr.HTML(padding=False, apply_default_css=False)

    form = [run, licence, name, private]
    card.click(answering(partial(press_card, folder), num_outputs=0), form, notice, **_LOOK)
    dry.click(answering(partial(press_push, folder, True), num_outputs=0), form, notice, **_LOOK)
    push.click(answering(partial(press_push, folder, False), num_outputs=0), form, notice, **_LOOK)
    panel.click(pressing(partial(press_export, folder), num_outputs=0), run, notice, **_LOOK)
    for field in form:
        field.change(partial(show_files, folder), form, [commands, panel, log], **_LOOK)
    return Room(
        enter=partial(refresh, folder),
        enter_inputs=form,
        enter_outputs=[run, commands, panel, log],
        watch=partial(show_files, folder),
        watch_inputs=form,
        watch_outputs=[commands, panel, log],
    )


def refresh(folder: StudioFolder, run: str | None, *form: Any) -> list[Any]:
    """Returns the room as the folder has it."""
    names = folder.run_names()
    current = run if run in names else (names[0] if names else None)
    return [choices(names, run), *show_files(folder, current, *form)]


def show_files(folder: StudioFolder, run: str | None, licence: str, name: str, private: bool) -> list[str]:
    """Returns the commands, the files and what the last push said."""
    try:
        found = folder.run(run)
    except UserError as error:
        return ["", say("note", str(error)), ""]
    wanted = [card_command(folder, run, licence)]
    wanted += [push_command(folder, run, licence, name, private)] if (name or "").strip() else []
    return [command_box(wanted), files_panel(folder.runs, found), _last_push(folder, run)]


def card_command(folder: StudioFolder, run: str | None, licence: str) -> tuple[str, ...]:
    own = (f"licence={licence.strip()}",) if (licence or "").strip() else ()
    return ("card", str(folder.run(run).path.absolute()), *own)


def push_command(
    folder: StudioFolder, run: str | None, licence: str, name: str, private: bool, *, dry: bool = False
) -> tuple[str, ...]:
    own = (f"licence={licence.strip()}",) if (licence or "").strip() else ()
    own += () if private else ("private=false",)
    return (
        "push",
        str(folder.run(run).path.absolute()),
        f"name={name.strip()}",
        *own,
        *(("--dry-run",) if dry else ()),
    )


def press_card(folder: StudioFolder, run: str | None, licence: str, _name: str, _private: bool) -> tuple[str]:
    command = card_command(folder, run, licence)
    add_job(folder, title=f"model card of {run}", kind="card", commands=[command], runs=[run or ""])
    return ("Begun: the card appears here; one that you edited is never overwritten.",)


def press_push(folder: StudioFolder, dry: bool, run: str | None, licence: str, name: str, private: bool) -> tuple[str]:
    """Sends the run, or lists what would be sent."""
    if not (name or "").strip():
        raise UserError("on the hub as: missing; expected owner/name, such as me/rex")
    command = push_command(folder, run, licence, name, bool(private), dry=dry)
    title = f"{'list' if dry else 'send'} {run} as {name.strip()}"
    add_job(folder, title=title, kind="push", commands=[command], runs=[run or ""])
    return ("Begun: what it says appears below the files.",)


def press_export(folder: StudioFolder, _do: str, name: str, _text: str, run: str | None) -> tuple[str]:
    """Makes the file of a tool from the final adapter."""
    if name not in LAYOUTS:
        raise UserError(f"layout: '{name[:20]}'; reload the page")
    command = ("export", str(folder.run(run).path.absolute()), f"layout={name}")
    add_job(folder, title=f"export {run} as {name}", kind="export", commands=[command], runs=[run or ""])
    return (f"Begun: the {name} file appears here.",)


def _last_push(folder: StudioFolder, run: str | None) -> str:
    for job in list_jobs(folder):
        if job.kind in ("push", "card") and run in job.runs and job_state(job) in ("done", "failed"):
            return job_log(job)
    return ""
