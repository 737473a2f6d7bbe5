"""Second room: what to train, what it will take, and how it goes."""

from functools import partial
from typing import Any

from delora_sd.errors import UserError
from delora_sd.studio.folder import StudioFolder
from delora_sd.studio.jobs.queue import do_again, stop_job
from delora_sd.studio.page.html.pieces import notice as say
from delora_sd.studio.page.html.pieces import plural
from delora_sd.studio.page.html.trainings import plan_card, runs_panel
from delora_sd.studio.page.wiring import Room, answering, looking, make_choice, make_panel, pressing
from delora_sd.studio.trainings.cost import add_up, measure_costs
from delora_sd.studio.trainings.plan import (
    Training,
    Wish,
    find_packs,
    pack_commands,
    plan_trainings,
    start_trainings,
)
from delora_sd.studio.trainings.presets import BASES, METHODS, PRESETS
from delora_sd.studio.trainings.progress import read_runs

_LOOK = {"show_progress": "hidden", "api_visibility": "private"}


def build(folder: StudioFolder) -> Room:
    """Builds the room."""
    import gradio as gr

    notice = gr.HTML(padding=False, apply_default_css=False)
    with gr.Row(elem_classes="st-room"):
        with gr.Column(scale=1, min_width=300, elem_classes="st-form"):
            subjects = make_choice(label="Subjects", multiselect=True, elem_id="train-subjects")
            base = gr.Dropdown(label="Base", choices=list(BASES), value=BASES[0], allow_custom_value=True)
            preset = gr.Radio(
                label="How long", choices=[(f"{key}: {text}", key) for key, text in PRESETS.items()], value="balanced"
            )
            methods = gr.CheckboxGroup(
                label="Methods", choices=[(f"{key}: {text}", key) for key, text in METHODS.items()], value=["delora"]
            )
            with gr.Accordion("More", open=False, elem_id="train-more"):
                seed = gr.Number(label="Seed", value=0, precision=0, minimum=0)
                captions = gr.Checkbox(label="Train on the photos' captions", value=False)
                outside = gr.Slider(label="Weight outside the masks (1: masks unused)", minimum=0, maximum=1, value=1)
                more = gr.Textbox(
                    label="Further settings, key=value, one per line",
                    lines=3,
                    placeholder="adapter.rank=8",
                    elem_id="more-settings",
                )
        with gr.Column(scale=3, min_width=300):
            plan = gr.HTML(padding=False, apply_default_css=False, elem_id="plan")
            with gr.Row(elem_classes="st-options"):
                start = gr.Button("Start", variant="primary", elem_id="start")
                measure = gr.Button("Measure time and memory here", elem_id="measure")
            runs = make_panel(elem_id="runs")

    form = [subjects, methods, preset, base, seed, captions, outside, more]
    for field in form:
        field.change(looking(partial(show_plan, folder), num_outputs=1), form, plan, **_LOOK)
    start.click(answering(partial(press_start, folder), num_outputs=2), form, [notice, plan, runs], **_LOOK)
    measure.click(answering(partial(press_measure, folder), num_outputs=0), form, notice, **_LOOK)
    runs.click(pressing(partial(press_run, folder), num_outputs=1), None, [notice, runs], **_LOOK)
    return Room(
        enter=partial(refresh, folder),
        enter_inputs=form,
        enter_outputs=[subjects, runs, plan],
        watch=partial(show_runs, folder),
        watch_inputs=form,
        watch_outputs=[runs, plan],
    )


def refresh(folder: StudioFolder, subjects: list[str] | None, *form: Any) -> list[Any]:
    """Returns the room as the folder has it."""
    import gradio as gr

    names = folder.subject_names()
    chosen = [name for name in subjects or [] if name in names] or names[:1]
    return [gr.update(choices=names, value=chosen), *show_runs(folder, chosen, *form)]


def show_runs(folder: StudioFolder, *form: Any) -> list[str]:
    """Returns the runs, and the plan of the form, whose cost may be known by now."""
    try:
        plan = show_plan(folder, *form)
    except UserError as error:
        plan = say("note", str(error))
    return [runs_panel(folder.runs, read_runs(folder)), plan]


def show_plan(folder: StudioFolder, *form: Any) -> str:
    """Returns what the form comes to, before anything is started."""
    trainings = plan_trainings(folder, _wish(*form))
    packs = find_packs(trainings)
    commands = [words for pack in packs for words in pack_commands(folder, pack)]
    return plan_card(packs, commands, add_up(folder, packs))


def press_start(folder: StudioFolder, *form: Any) -> tuple[Any, ...]:
    """Puts the trainings into the queue."""
    trainings = plan_trainings(folder, _wish(*form))
    _check_new(folder, trainings)
    jobs = start_trainings(folder, trainings)
    said = (
        f"Started: {plural(len(trainings), 'training')} in {plural(len(jobs), 'job')}. Closing the page stops nothing."
    )
    return said, show_plan(folder, *form), runs_panel(folder.runs, read_runs(folder))


def press_measure(folder: StudioFolder, *form: Any) -> tuple[str]:
    """Measures a step of each kind of training that is not known yet."""
    jobs = measure_costs(folder, plan_trainings(folder, _wish(*form)))
    return (f"Measuring {plural(len(jobs), 'kind')} of training: a few steps each.",)


def press_run(folder: StudioFolder, do: str, name: str, _text: str) -> tuple[str, str]:
    """A run's own buttons: stop, and go on."""
    if do == "stop":
        stop_job(folder, name)
        said = "Asked to stop: it finishes its step and keeps a checkpoint. Resume goes on from there."
    else:
        do_again(folder, name)
        said = "In the queue again: it goes on from its last checkpoint."
    return said, runs_panel(folder.runs, read_runs(folder))


def _wish(*form: Any) -> Wish:
    subjects, methods, preset, base, seed, captions, outside, more = form
    return Wish(
        subjects=tuple(subjects or ()),
        methods=tuple(methods or ()),
        preset=preset or "",
        base=(base or "").strip(),
        seed=int(seed or 0),
        use_captions=bool(captions),
        outside_weight=float(1 if outside is None else outside),
        more=more or "",
    )


def _check_new(folder: StudioFolder, trainings: list[Training]) -> None:
    """Refuses to start what is under way already, for two processes cannot write one folder."""
    busy = {view.name: view.state for view in read_runs(folder)}
    for training in trainings:
        if busy.get(training.run) in ("running", "waiting"):
            raise UserError(f"{training.run}: is {busy[training.run]} already")
        if busy.get(training.run) == "finished":
            raise UserError(f"{training.run}: is finished, with these settings; change one, such as the seed")
