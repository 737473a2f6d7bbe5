"""Fourth room: images of the subject, beside the same seed without the adapter or at another checkpoint."""

from functools import partial
from typing import Any

from delora_sd.errors import UserError
from delora_sd.studio.folder import StudioFolder
from delora_sd.studio.jobs.queue import add_job
from delora_sd.studio.page.html.pieces import command_box
from delora_sd.studio.page.html.pieces import notice as say
from delora_sd.studio.page.html.results import gallery_panel
from delora_sd.studio.page.wiring import Room, answering, choices, looking, make_choice, make_panel
from delora_sd.studio.results.draw import DrawWish, draw_commands
from delora_sd.studio.results.images import read_images
from delora_sd.studio.trainings.progress import read_run

FINAL = "final"
_LOOK = {"show_progress": "hidden", "api_visibility": "private"}
_PROMPTS = "a {identifier} {class_word} on the beach\na {identifier} {class_word} in the snow"


def build(folder: StudioFolder) -> Room:
    """Builds the room."""
    import gradio as gr

    notice = gr.HTML(padding=False, apply_default_css=False)
    with gr.Row(elem_classes="st-room"):
        with gr.Column(scale=1, min_width=300, elem_classes="st-form"):
            run = make_choice(label="Run", elem_id="create-run")
            step = make_choice(label="Checkpoint", choices=[FINAL], value=FINAL, elem_id="create-step")
            prompts = gr.Textbox(label="Prompts, one per line", lines=4, value=_PROMPTS, elem_id="prompts")
            benchmark = gr.Checkbox(label="The benchmark's 25 prompts instead", value=False)
            strength = gr.Slider(label="Strength", minimum=0, maximum=2, step=0.05, value=1)
            seed = gr.Number(label="First seed", value=0, precision=0, minimum=0)
            count = gr.Slider(label="Images per prompt", minimum=1, maximum=8, step=1, value=1, elem_id="count")
            with_base = gr.Checkbox(label="The same with the base, to compare", value=True)
            with_step = make_choice(label="The same at another checkpoint", choices=["none"], value="none")
            with gr.Accordion("More", open=False, elem_id="create-more"):
                negative = gr.Textbox(label="Negative prompt", max_lines=2)
                others = make_choice(label="More adapters on top", multiselect=True)
                others_strength = gr.Slider(label="Their strength", minimum=0, maximum=2, step=0.05, value=1)
                steps = gr.Slider(label="Denoising steps", minimum=5, maximum=50, step=1, value=25, elem_id="denoise")
                guidance = gr.Number(label="Guidance (0: what is usual on the base)", value=0)
            start = gr.Button("Create", variant="primary", elem_id="create")
            commands = gr.HTML(padding=False, apply_default_css=False)
        with gr.Column(scale=3, min_width=300):
            gallery = make_panel(elem_id="gallery")

    form = [run, step, prompts, benchmark, strength, seed, count, with_base, with_step]
    form += [negative, others, others_strength, steps, guidance]
    start.click(answering(partial(press_create, folder), num_outputs=0), form, notice, **_LOOK)
    for field in form:
        field.change(looking(partial(show_commands, folder), num_outputs=1), form, commands, **_LOOK)
    run.change(partial(show_steps, folder), [run, step, with_step], [step, with_step], **_LOOK)
    run.change(partial(show_gallery, folder), run, gallery, **_LOOK)
    chosen = [run, step, with_step, others]
    return Room(
        enter=partial(refresh, folder),
        enter_inputs=chosen,
        enter_outputs=[*chosen, gallery],
        watch=partial(show_gallery, folder),
        watch_inputs=[run],
        watch_outputs=[gallery],
    )


def refresh(folder: StudioFolder, run: str | None, step: str, with_step: str, others: list[str] | None) -> list[Any]:
    """Returns the room as the folder has it."""
    import gradio as gr

    names = folder.run_names()
    current = run if run in names else (names[0] if names else None)
    rest = [name for name in names if name != current]
    kept = [name for name in others or [] if name in rest]
    steps = show_steps(folder, current, step, with_step)
    return [choices(names, run), *steps, gr.update(choices=rest, value=kept), show_gallery(folder, current)]


def show_steps(folder: StudioFolder, run: str | None, step: str, with_step: str) -> list[Any]:
    """Returns the checkpoints that can be drawn with; while training is not finished there is no final one."""
    try:
        view = read_run(folder, run or "")
        known = [f"step {each}" for each in reversed(view.checkpoints)]
        ready = ([FINAL] if folder.run(run).is_finished() else []) + known
    except UserError:
        known, ready = [], []
    return [choices(ready or [FINAL], step), choices(["none", *known], with_step)]


def show_gallery(folder: StudioFolder, run: str | None) -> str:
    """Returns the run's images."""
    try:
        return gallery_panel(folder.runs, read_images(folder.run(run)))
    except UserError as error:
        return say("note", str(error))


def show_commands(folder: StudioFolder, *form: Any) -> str:
    """Returns what Create would run."""
    return command_box(draw_commands(folder, _wish(*form)))


def press_create(folder: StudioFolder, *form: Any) -> tuple[str]:
    """Puts the drawing into the queue."""
    wish = _wish(*form)
    commands = draw_commands(folder, wish)
    add_job(folder, title=f"images of {wish.run}", kind="generate", commands=commands, runs=[wish.run])
    return ("Begun: the images appear as they are drawn.",)


def _wish(*form: Any) -> DrawWish:
    run, step, prompts, benchmark, strength, seed, count, with_base, with_step = form[:9]
    negative, others, others_strength, steps, guidance = form[9:]
    return DrawWish(
        run=run or "",
        prompts=prompts or "",
        use_benchmark=bool(benchmark),
        step=_number(step),
        strength=float(strength),
        extra=dict.fromkeys(others or [], float(others_strength)),
        negative=negative or "",
        seed=int(seed or 0),
        images_per_prompt=int(count),
        num_inference_steps=int(steps),
        guidance=float(guidance) if guidance else None,
        with_base=bool(with_base),
        with_step=_number(with_step),
    )


def _number(label: str | None) -> int | None:
    """Returns N of "step N"."""
    word = (label or "").removeprefix("step ")
    return int(word) if word.isdigit() else None
