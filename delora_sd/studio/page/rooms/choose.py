"""Third room: which checkpoint. The judge's command does the work; the page shows what it wrote."""

from functools import partial
from typing import Any

from delora_sd.errors import UserError
from delora_sd.studio.folder import StudioFolder
from delora_sd.studio.jobs.queue import add_job
from delora_sd.studio.page.html.pieces import command_box
from delora_sd.studio.page.html.pieces import notice as say
from delora_sd.studio.page.html.results import choice_panel
from delora_sd.studio.page.wiring import Room, answering, choices, make_choice, make_panel, pressing
from delora_sd.studio.results.choice import read_choice_view
from delora_sd.studio.trainings.presets import draw_settings
from delora_sd.studio.trainings.progress import read_run

LAYOUTS = ("kohya", "diffusers", "peft")
_LOOK = {"show_progress": "hidden", "api_visibility": "private"}


def build(folder: StudioFolder) -> Room:
    """Builds the room."""
    import gradio as gr

    notice = gr.HTML(padding=False, apply_default_css=False)
    with gr.Row(elem_classes="st-room"):
        with gr.Column(scale=1, min_width=300, elem_classes="st-form"):
            run = make_choice(label="Run", elem_id="choose-run")
            images = gr.Slider(
                label="Images per prompt", minimum=1, maximum=8, step=1, value=2, elem_id="choose-images"
            )
            steps = gr.Slider(
                label="Denoising steps", minimum=5, maximum=50, step=1, value=25, elem_id="choose-denoise"
            )
            layout = gr.Radio(label="Export as", choices=list(LAYOUTS), value=LAYOUTS[0])
            start = gr.Button("Compare the checkpoints", variant="primary", elem_id="choose")
            commands = gr.HTML(padding=False, apply_default_css=False)
        with gr.Column(scale=3, min_width=300):
            panel = make_panel(elem_id="choice")

    form = [run, images, steps]
    start.click(answering(partial(press_choose, folder), num_outputs=0), form, notice, **_LOOK)
    panel.click(pressing(partial(press_export, folder), num_outputs=0), [run, layout], notice, **_LOOK)
    for field in form:
        field.change(partial(show_choice, folder), form, [commands, panel], **_LOOK)
    return Room(
        enter=partial(refresh, folder),
        enter_inputs=form,
        enter_outputs=[run, commands, panel],
        watch=partial(show_choice, folder),
        watch_inputs=form,
        watch_outputs=[commands, panel],
    )


def refresh(folder: StudioFolder, run: str | None, *form: Any) -> list[Any]:
    """Returns the room as the folder has it."""
    names = folder.run_names()
    current = run if run in names else (names[0] if names else None)
    return [choices(names, run), *show_choice(folder, current, *form)]


def show_choice(folder: StudioFolder, run: str | None, images: float, steps: float) -> list[str]:
    """Returns the command and what it found."""
    try:
        view = read_choice_view(folder.run(run))
        return [command_box([choose_command(folder, run, images, steps)]), choice_panel(folder.runs, view)]
    except UserError as error:
        return ["", say("note", str(error))]


def choose_command(folder: StudioFolder, run: str | None, images: float, steps: float) -> tuple[str, ...]:
    """Returns `choose` with its settings. Raises UserError for a run with fewer than two checkpoints."""
    view = read_run(folder, run or "")
    if view.config is None:
        raise UserError(view.problem)
    if len(view.checkpoints) < 2:
        raise UserError(f"{run}: {len(view.checkpoints)} of at least 2 checkpoints to compare; train on")
    generate = {"num_inference_steps": int(steps)} | draw_settings(view.config.model.base)
    settings = ", ".join(f"{key}: {value}" for key, value in generate.items())
    return (
        "choose",
        str((folder.runs / view.name).absolute()),
        f"images_per_prompt={int(images)}",
        f"generate={{{settings}}}",
    )


def press_choose(folder: StudioFolder, run: str | None, images: float, steps: float) -> tuple[str]:
    command = choose_command(folder, run, images, steps)
    add_job(folder, title=f"compare the checkpoints of {run}", kind="choose", commands=[command], runs=[run or ""])
    return ("Begun: every checkpoint draws the same prompts and seeds, then they are scored.",)


def press_export(folder: StudioFolder, _do: str, name: str, _text: str, run: str | None, layout: str) -> tuple[str]:
    """Exports the checkpoint of a step."""
    if not name.isdigit() or layout not in LAYOUTS:
        raise UserError(f"export: step '{name[:20]}' as '{str(layout)[:20]}'; reload the page")
    command = ("export", str(folder.run(run).path.absolute()), f"step={name}", f"layout={layout}")
    add_job(folder, title=f"export step {name} of {run}", kind="export", commands=[command], runs=[run or ""])
    return (f"Begun: step {name} as {layout}; it will lie in the fifth room.",)
