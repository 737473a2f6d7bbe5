"""The sheet of photos: each as training will see it, what is wrong with it, its caption."""

from collections.abc import Sequence
from pathlib import Path

from delora_sd.studio.page.html.pieces import button, command_box, empty, esc, photo_url, pill, plural
from delora_sd.studio.photos.examine import PhotoView
from delora_sd.studio.photos.intake import Taken


def photo_sheet(photos: Path, views: Sequence[PhotoView], *, size_px: int, show_masks: bool) -> str:
    """Returns the subject's photos as cards, the summary on top."""
    if not views:
        return empty("No photos yet", "Drop 4 to 6 photos of one subject: different sides, light and backgrounds.")
    cards = "".join(_card(photos, view, size_px, show_masks) for view in views)
    return f'{_summary(views)}<div class="st-sheet">{cards}</div>'


def taken_text(taken: Sequence[Taken]) -> tuple[str, str]:
    """Returns (kind, text) of what became of the uploads."""
    refused = [f"{each.problem}" for each in taken if each.problem]
    good = len(taken) - len(refused)
    text = f"{plural(good, 'file')} taken. " if good else ""
    return ("bad" if refused else "good"), text + " · ".join(refused)


def photo_commands(photos: Path, class_word: str) -> str:
    """Returns what writes captions and makes masks, on the page and without it."""
    place, word = str(photos.absolute()), f"class_word={class_word}"
    return command_box([("captions", place, word, "write=true"), ("masks", place, word)], title="Captions and masks")


def _summary(views: Sequence[PhotoView]) -> str:
    held_out, faulty = sum(view.is_held_out for view in views), sum(bool(view.problems) for view in views)
    captioned, masked = sum(bool(view.caption) for view in views), sum(view.has_mask for view in views)
    parts = [pill("note", f"{len(views) - held_out} to train on")]
    parts += [pill("held", f"{held_out} held out")] if held_out else []
    parts += (
        [pill("good", "no problems seen")] if not faulty else [pill("warn", f"{plural(faulty, 'photo')} to look at")]
    )
    parts += [pill("plain", f"{captioned} captioned")] if captioned else []
    parts += [pill("plain", f"{masked} masked")] if masked else []
    return f'<div class="st-pills">{"".join(parts)}</div>'


def _card(photos: Path, view: PhotoView, size_px: int, show_masks: bool) -> str:
    url = photo_url(photos.name, photos / view.name, size_px=size_px, with_mask=show_masks and view.has_mask)
    problems = "".join(f"<li>{esc(problem)}</li>" for problem in view.problems)
    badge = pill("held", "held out") if view.is_held_out else ""
    if view.width:
        image = f'<img src="{esc(url)}" alt="{esc(view.name)} as training sees it" loading="lazy">'
        size = f"{view.width} × {view.height}"
    else:
        image, size = '<div class="st-broken">cannot be read</div>', ""
    return (
        f'<article class="st-photo{" faulty" if problems else ""}"><div class="st-frame">{image}{badge}</div>'
        f'<header><b title="{esc(view.name)}">{esc(view.name)}</b><span>{size}</span>'
        + button("Remove", "remove", name=view.name, kind="quiet", ask=f"Remove {view.name} from the studio?")
        + f'</header><ul class="st-problems">{problems}</ul>'
        f'<label class="st-caption"><span>Caption</span><textarea rows="2" maxlength="1000" data-edit="caption" '
        f'data-name="{esc(view.name)}" value="{esc(view.caption)}" placeholder="none: the template names the subject">'
        f"{esc(view.caption)}</textarea></label></article>"
    )
