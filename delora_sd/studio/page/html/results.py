"""What came out: the table of checkpoints, the gallery, the files to take away."""

from collections.abc import Sequence
from pathlib import Path

from delora_sd.files.run_folder import RunFolder
from delora_sd.studio.page.html.curves import draw_bars
from delora_sd.studio.page.html.pieces import button, empty, esc, markdown_card, notice, pill, run_url, size_of_bytes
from delora_sd.studio.results.choice import Checkpoint, ChoiceView
from delora_sd.studio.results.files import TOOLS, find_files, read_card
from delora_sd.studio.results.images import ImageView, side_by_side

_SHOWN_ROWS = 40
_LEFT_OUT = ("prompt", "template", "file", "prompt_index")
"""Of an image's settings: said elsewhere, or of no use to a person."""


def choice_panel(runs: Path, view: ChoiceView | None) -> str:
    """Returns the checkpoints with their scores, the warnings, and the images they were judged by."""
    if view is None:
        return empty(
            "Not compared yet",
            "Draws a few images with every checkpoint and scores them against photos that were not trained on.",
        )
    stamp = notice("bad", "RANDOM WEIGHTS: these numbers mean nothing.") if view.is_random else ""
    warnings = "".join(notice("warn", warning) for warning in view.warnings)
    return (
        f'{stamp}<div class="st-verdict"><span>best checkpoint</span><b>step {view.step}</b>'
        f"<p>{esc(view.reason)}</p></div>{warnings}{_table(view)}{_choice_images(runs, view)}"
        f'<p class="st-soft">Subject: against {esc(view.reference)}. Bars: 95% intervals over the images. '
        f"Protocol {esc(view.protocol)}; numbers compare only under the same one.</p>"
    )


def gallery_panel(runs: Path, images: Sequence[ImageView]) -> str:
    """Returns the images, same prompt and seed side by side, each with how it was made."""
    if not images:
        return empty("No images yet", "Write a prompt and press Create. The same seed with the base stands beside it.")
    rows = list(side_by_side(images).items())
    shown = "".join(_gallery_row(runs, prompt, seed, row) for (prompt, seed), row in rows[:_SHOWN_ROWS])
    more = len(rows) - _SHOWN_ROWS
    tail = f'<p class="st-soft">{more} more in {esc(runs)}</p>' if more > 0 else ""
    return f'<div class="st-gallery">{shown}</div>{tail}'


def files_panel(runs: Path, run: RunFolder) -> str:
    """Returns the exports for each tool with where to put them, and the card."""
    files, sections = find_files(run), []
    for tool in TOOLS:
        own = [file for file in files if file.layout == tool.layout]
        links = "".join(_link(runs, file.file, file.size) for file in own)
        make = button(f"Make the {tool.layout} file", "export", name=tool.layout, kind="quiet")
        sections.append(
            f'<section class="st-tool"><h3>{esc(tool.name)}</h3><p>{esc(tool.place)}</p>'
            f"<ul>{links}</ul>{'' if own else make}</section>"
        )
    card = read_card(run)
    shown = markdown_card(card) if card else '<p class="st-soft">No model card yet.</p>'
    return f'<div class="st-tools">{"".join(sections)}</div><h3 class="st-h3">Model card</h3>{shown}'


def _table(view: ChoiceView) -> str:
    numbers = [number for each in view.checkpoints for number in (each.subject_low, each.subject_high, each.trained)]
    smallest, largest = min(numbers), max(numbers)
    rows = "".join(_row(each, view.step, smallest, largest) for each in view.checkpoints)
    return (
        '<div class="st-scroll"><table class="st-table"><thead><tr><th>checkpoint</th><th>subject</th><th></th>'
        '<th>prompt</th><th title="against the photos it was trained on">trained</th><th>gap</th><th></th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _row(each: Checkpoint, chosen: int, smallest: float, largest: float) -> str:
    marks = pill("good", "best") if each.step == chosen else pill("plain", "as good") if each.is_near_best else ""
    bar = draw_bars(each.subject, each.subject_low, each.subject_high, smallest=smallest, largest=largest)
    label = f"Export step {each.step}"
    return (
        f'<tr class="{"chosen" if each.step == chosen else ""}"><td>step {each.step} {marks}</td>'
        f"<td>{each.subject:.3f}</td><td>{bar}</td><td>{each.prompt:.3f}</td><td>{each.trained:.3f}</td><td>{each.gap:+.3f}</td>"
        f"<td>{button('Export', 'export', name=str(each.step), kind='quiet', title=label)}</td></tr>"
    )


def _choice_images(runs: Path, view: ChoiceView) -> str:
    """Returns prompts down, checkpoints across; of several seeds the first."""
    by_prompt: dict[str, dict[str, ImageView]] = {}
    for image in view.images:
        row = by_prompt.setdefault(image.prompt, {})
        if image.label not in row or image.seed < row[image.label].seed:
            row[image.label] = image
    rows = [side_by_side(row.values()) for row in by_prompt.values()]
    shown = "".join(_gallery_row(runs, prompt, seed, row) for each in rows for (prompt, seed), row in each.items())
    return f'<div class="st-gallery">{shown}</div>'


def _gallery_row(runs: Path, prompt: str, seed: int, row: Sequence[ImageView]) -> str:
    tiles = "".join(_tile(runs, image) for image in row)
    return f'<section class="st-images"><h4>{esc(prompt)} <span>seed {seed}</span></h4><div>{tiles}</div></section>'


def _tile(runs: Path, image: ImageView) -> str:
    url = esc(run_url(runs, image.file))
    facts = "".join(
        f"<div><dt>{esc(key.replace('_', ' '))}</dt><dd>{esc(value)}</dd></div>"
        for key, value in image.settings.items()
        if key not in _LEFT_OUT and value not in ("", None, {})
    )
    return (
        f'<figure><a href="{url}" target="_blank" rel="noopener"><img src="{url}" alt="{esc(image.prompt)}, '
        f'{esc(image.label)}" loading="lazy"></a><figcaption><b>{esc(image.label)}</b>'
        f"<details><summary>settings</summary><dl>{facts}</dl></details></figcaption></figure>"
    )


def _link(runs: Path, file: Path, size: int) -> str:
    name = f"{file.name}.zip" if file.is_dir() else file.name
    url = esc(run_url(runs, file, download=True))
    return f'<li><a href="{url}" download="{esc(name)}">{esc(name)}</a> <span>{size_of_bytes(size)}</span></li>'
