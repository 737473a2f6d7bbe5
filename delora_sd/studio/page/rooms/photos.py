"""First room: photos come in, are looked at, captioned, and divided into those to train on and those to test on."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from delora_sd.data.photo_files import HEIC_SUFFIXES, PHOTO_SUFFIXES
from delora_sd.errors import UserError
from delora_sd.studio.folder import StudioFolder
from delora_sd.studio.jobs.queue import add_job
from delora_sd.studio.page.html.photos import photo_commands, photo_sheet, taken_text
from delora_sd.studio.page.html.pieces import empty
from delora_sd.studio.page.wiring import Room, answering, choices, make_choice, make_panel, pressing
from delora_sd.studio.photos.captions import save_caption
from delora_sd.studio.photos.examine import examine
from delora_sd.studio.photos.intake import take_uploads
from delora_sd.studio.photos.subject import (
    SubjectFacts,
    create_subject,
    find_photo,
    list_photos,
    read_subject,
    remove_photo,
    save_subject,
    usual_hold_out,
)
from delora_sd.studio.trainings.presets import BASES, size_of

KINDS = {"known from the class word": None, "animal or person": True, "object": False}
_LOOK = {"show_progress": "hidden", "api_visibility": "private"}


def build(folder: StudioFolder) -> Room:
    """Builds the room."""
    it = _lay_out(folder)
    facts = [it.class_word, it.kind, it.hold_out, it.identifier]
    shown = [it.sheet, it.commands]
    seen = [it.subject, it.base, it.masks]
    it.create.click(
        answering(partial(press_create, folder), num_outputs=9),
        [it.name, it.word, it.base],
        [it.notice, it.subject, it.name, it.word, it.new, *facts, it.sheet],
        **_LOOK,
    )
    it.drop.upload(
        answering(partial(press_upload, folder), num_outputs=4),
        [*seen, it.drop],
        [it.notice, it.drop, it.hold_out, *shown],
        **_LOOK,
    )
    it.save.click(answering(partial(press_save, folder), num_outputs=2), [*seen, *facts], [it.notice, *shown], **_LOOK)
    it.sheet.click(pressing(partial(press_sheet, folder), num_outputs=2), seen, [it.notice, *shown], **_LOOK)
    it.subject.input(partial(show_facts, folder), it.subject, facts, **_LOOK)
    for field in seen:
        field.change(partial(show_photos, folder), seen, shown, **_LOOK)
    it.caption.click(answering(partial(press_work, folder, "captions"), num_outputs=0), it.subject, it.notice, **_LOOK)
    it.segment.click(answering(partial(press_work, folder, "masks"), num_outputs=0), it.subject, it.notice, **_LOOK)
    return Room(
        enter=partial(refresh, folder),
        enter_inputs=[*seen, *facts],
        enter_outputs=[it.subject, *facts, *shown],
        watch=partial(show_photos, folder),
        watch_inputs=seen,
        watch_outputs=shown,
    )


def _lay_out(folder: StudioFolder) -> SimpleNamespace:
    """Returns the parts of the room, in their places."""
    import gradio as gr

    it = SimpleNamespace()
    it.notice = gr.HTML(padding=False, apply_default_css=False)
    with gr.Row(elem_classes="st-room"):
        with gr.Column(scale=1, min_width=300, elem_classes="st-form"):
            it.subject = make_choice(label="Subject", elem_id="photos-subject")
            with gr.Accordion("New subject", open=not folder.subject_names(), elem_id="new-subject") as it.new:
                it.name = gr.Textbox(label="Name", placeholder="rex", max_lines=1, elem_id="new-name")
                it.word = gr.Textbox(
                    label="What it is", placeholder="dog, backpack, toy", max_lines=1, elem_id="new-word"
                )
                it.create = gr.Button("Create", variant="primary", size="sm", elem_id="create-subject")
            with gr.Group(elem_classes="st-group"):
                it.class_word = gr.Textbox(label="What it is (class word)", max_lines=1)
                it.kind = gr.Radio(label="Kind", choices=list(KINDS), value=next(iter(KINDS)))
                it.hold_out = gr.Number(label="Photos held out, to test on", precision=0, minimum=0, value=0)
                it.identifier = gr.Textbox(label="Identifier, the rare word that will name it", max_lines=1)
                it.save = gr.Button("Save", size="sm")
        with gr.Column(scale=3, min_width=300):
            it.drop = gr.File(
                label="Drop photos here (.jpg .png .webp .heic, and .txt captions)",
                file_count="multiple",
                file_types=[*PHOTO_SUFFIXES, *HEIC_SUFFIXES, ".txt"],
                elem_id="drop",
                height=150,
            )
            with gr.Row(elem_classes="st-options"):
                it.base = gr.Dropdown(label="As this base will see them", choices=list(BASES), value=BASES[0])
                it.masks = gr.Checkbox(label="Show masks", value=False)
            it.sheet = make_panel(elem_id="sheet")
            with gr.Row(elem_classes="st-options"):
                it.caption = gr.Button("Write captions", size="sm")
                it.segment = gr.Button("Make masks", size="sm")
            it.commands = gr.HTML(padding=False, apply_default_css=False)
    return it


def refresh(folder: StudioFolder, subject: str | None, base: str, masks: bool, *facts: Any) -> list[Any]:
    """Returns the room as the folder has it; a form that is being filled in is left alone."""
    names = folder.subject_names()
    current = subject if subject in names else (names[0] if names else None)
    shown = list(facts) if current == subject else show_facts(folder, current)
    return [choices(names, subject), *shown, *show_photos(folder, current, base, masks)]


def show_facts(folder: StudioFolder, subject: str | None) -> list[Any]:
    """Returns what the form says of a subject."""
    facts = _facts(folder, subject)
    kind = next(label for label, value in KINDS.items() if value == facts.is_live)
    return [facts.class_word, kind, facts.hold_out, facts.identifier]


def show_photos(folder: StudioFolder, subject: str | None, base: str, masks: bool) -> list[str]:
    """Returns the sheet of photos and the commands."""
    if subject is None:
        return [empty("Begin with a subject", "Give it a name and say what it is; then drop its photos."), ""]
    try:
        photos, facts, size_px = folder.subject(subject), _facts(folder, subject), size_of(base or BASES[0])
    except UserError as error:
        return [empty("Not here", str(error)), ""]
    views = examine(photos, facts, size_px=size_px)
    return [
        photo_sheet(photos, views, size_px=size_px, show_masks=bool(masks)),
        photo_commands(photos, facts.class_word) if views else "",
    ]


def press_create(folder: StudioFolder, name: str, word: str, base: str) -> tuple[Any, ...]:
    import gradio as gr

    subject = create_subject(folder, name, word)
    shown = show_photos(folder, subject, base, False)[0]
    said = f"{subject}: now drop its photos."
    closed = gr.update(open=False)
    return said, choices(folder.subject_names(), subject), "", "", closed, *show_facts(folder, subject), shown


def press_upload(
    folder: StudioFolder, subject: str | None, base: str, masks: bool, files: list[str]
) -> tuple[Any, ...]:
    """Takes what was dropped; the first photos also decide how many are held out."""
    if subject is None:
        raise UserError("create a subject first: its name and what it is; then drop the photos again")
    photos = folder.subject(subject)
    had = len(list_photos(photos))
    taken = take_uploads(photos, [Path(file) for file in files or []])
    for file in files or []:
        Path(file).unlink(missing_ok=True)
    facts, has = read_subject(photos), len(list_photos(photos))
    if facts.hold_out == 0 and usual_hold_out(has) and not usual_hold_out(had):
        save_subject(photos, replace(facts, hold_out=usual_hold_out(has)))
    hold_out = read_subject(photos).hold_out
    return taken_text(taken), None, hold_out, *show_photos(folder, subject, base, masks)


def press_save(folder: StudioFolder, subject: str | None, base: str, masks: bool, *facts: Any) -> tuple[Any, ...]:
    class_word, kind, hold_out, identifier = facts
    new = SubjectFacts(
        class_word=(class_word or "").strip(),
        is_live=KINDS.get(kind),
        identifier=(identifier or "").strip(),
        hold_out=int(hold_out or 0),
    )
    save_subject(folder.subject(subject), new)
    return f"{subject}: saved.", *show_photos(folder, subject, base, masks)


def press_sheet(
    folder: StudioFolder, do: str, name: str, text: str, subject: str | None, base: str, masks: bool
) -> tuple[Any, ...]:
    """A photo's own controls: its caption, and its removal."""
    photos = folder.subject(subject)
    if do == "remove":
        remove_photo(photos, name)
        said = f"{name}: removed from the studio."
    else:
        save_caption(find_photo(photos, name), text)
        said = f"{name}: caption saved."
    return said, *show_photos(folder, subject, base, masks)


def press_work(folder: StudioFolder, kind: str, subject: str | None) -> tuple[str]:
    """Captions or masks by a model: a job."""
    photos = folder.subject(subject)
    if not list_photos(photos):
        raise UserError(f"{subject}: no photos yet")
    words = [kind, str(photos.absolute()), f"class_word={read_subject(photos).class_word}"]
    words += ["write=true"] if kind == "captions" else []
    add_job(folder, title=f"{kind} of {subject}", kind=kind, commands=[words])
    return (f"Begun: what it does is shown above, and the photos when it is done ({kind}).",)


def _facts(folder: StudioFolder, subject: str | None) -> SubjectFacts:
    try:
        return read_subject(folder.subject(subject))
    except UserError:
        return SubjectFacts(class_word="")
