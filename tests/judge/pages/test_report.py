"""The page of a run: complete, self-contained, safe, and telling what is not there yet."""

import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from standins import PROMPTS, make_judge, write_run, write_set

from delora_eval.pages.run_page.page import render_run, write_report
from delora_eval.scoring.inputs.task import read_task
from delora_eval.scoring.score import find_protocols, score_task
from delora_eval.settings import ReportConfig, ScoreConfig
from delora_sd.errors import UserError
from delora_sd.files.contents import hash_file
from delora_sd.files.run_folder import RunFolder, append_line, read_json, write_json

ATTACK = 'a {identifier} {class_word} <script>alert(1)</script> "><img src=x onerror=alert(2)> &amp; {{7*7}}'


def render(run: Path) -> str:
    return render_run(RunFolder(run), images_per_prompt=4, thumbnail_px=64)


def score(run: Path, *, is_random: bool = False, protocol: str = "dreambooth") -> None:
    config = ScoreConfig(run=str(run), protocol=(protocol,))
    task = read_task(config)
    score_task(make_judge(is_random=is_random), find_protocols(config, task), task)


def train(run: Path) -> None:
    """Events and manifest as training leaves them."""
    layers = ("down_blocks.0.attn1.to_q", "mid_block.attn1.to_k", "up_blocks.1.attn2.to_out.0")
    for step in range(10, 210, 10):
        event = {"step": step, "loss": 1 / step, "lr": 0.02, "grad_norm": 0.1, "images_per_second": 2.0}
        append_line(run / "events.jsonl", event | {"boundary": 8 + step / 1000, "distance": step / 2000})
        if step % 100 == 0:
            facts = {"boundary": 8.1, "distance": 1.5, "relative_distance": step / 1000}
            append_line(run / "events.jsonl", {"step": step, "layers": dict.fromkeys(layers, facts)})
    manifest = {"format": 1, "delora_sd": "0.1.0", "git": "abc123def4567", "versions": {"torch": "2.9.1"}}
    manifest |= {"base": {"id": "tiny", "fingerprint": "feedface" * 8, "random_weights": False}, "device": "a CPU"}
    photos = {photo.name: hash_file(photo) for photo in sorted((run.parent / "photos").iterdir())}
    write_json(run / "manifest.json", manifest | {"photos": photos, "trainable_parameters": 3188864})


class Links(HTMLParser):
    """Collects every attribute that makes a browser load something."""

    def __init__(self):
        super().__init__()
        self.loaded: list[str] = []
        self.scripts = 0
        self.handlers: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.scripts += tag == "script"
        self.loaded += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action", "poster")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def read_links(page: str) -> Links:
    links = Links()
    links.feed(page)
    return links


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path)


def test_a_finished_run_shows_photos_images_scores_curves_settings_and_hashes(run):
    train(run)
    score(run)
    page = render(run)
    assert "3 photos in" in page and "a qwe dog in the snow" in page
    for label in ("DINO", "CLIP-T", "Context", "Drift", "PRES"):
        assert label in page
    for title in ("Loss", "Boundary", "Distance from the pretrained model", "Where the model moved", "Speed"):
        assert f"<h3>{title}</h3>" in page
    photo = run.parent / "photos" / "0.png"
    for fact in ("3,188,864", "feedfacefeedface", hash_file(photo)[:16], "abc123def456", "2.9.1", "0123456789abcdef"):
        assert fact in page
    assert "data.class_word" in page and "RANDOM" not in page and "Miniature world" not in page
    assert page.count('class="card"') == 6
    assert "not yet" not in page.lower() and "Not scored" not in page


def test_the_page_loads_nothing_and_its_policy_forbids_it(run):
    train(run)
    score(run)
    page = render(run)
    links = read_links(page)
    assert links.loaded and all(link.startswith("data:") for link in links.loaded)
    assert "default-src 'none'" in page and links.handlers == []
    assert not re.search(r"url\(|@import|https?://", page)


def test_text_from_prompts_and_settings_is_shown_and_never_run(run):
    write_set(run, "main", [ATTACK])
    score(run)
    write_json(run / "failed.json", {"step": 7, "reason": "<script>alert(3)</script>"})
    page = render(run)
    links = read_links(page)
    assert links.scripts == 1 and links.handlers == []
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "{{7*7}}" in page
    assert "&lt;script&gt;alert(3)" in page
    assert all(link.startswith("data:") for link in links.loaded)


def test_layer_names_cannot_break_out_of_the_figures(run):
    name = 'up_blocks.0"/><script>alert(1)</script>'
    for step in (100, 200):
        append_line(run / "events.jsonl", {"step": step, "loss": 0.1, "distance": 0.1})
        append_line(run / "events.jsonl", {"step": step, "layers": {name: {"relative_distance": 0.1, "distance": 1}}})
    assert read_links(render(run)).scripts == 1


def test_random_weights_are_announced(run):
    score(run, is_random=True)
    page = render(run)
    assert "RANDOM WEIGHTS" in page and '<span class="stamp">RANDOM</span>' in page


def test_an_untrained_base_is_announced_before_anything_is_scored(run):
    write_json(run / "manifest.json", {"format": 1, "base": {"id": "x", "fingerprint": None, "random_weights": True}})
    assert "RANDOM WEIGHTS" in render(run)


def test_the_miniature_says_what_it_is(run):
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(re.sub(r"base: .*", "base: miniature", config))
    assert "Miniature world" in render(run)


def test_the_page_shows_what_other_tools_draw_with_the_files(run):
    train(run)
    assert "The same in other tools" not in render(run)
    (run / "product").mkdir()
    for name in ("preview", "diffusers", "comfyui"):
        shutil.copy(run / "images/main/00-s0.png", run / "product" / f"{name}.png")
    manifest = read_json(run / "manifest.json")
    differences = {
        "rex.diffusers.safetensors": 0.01,
        "rex.kohya.safetensors": None,
        "rex.kohya.safetensors in ComfyUI": 3.25,
    }
    write_json(run / "manifest.json", manifest | {"export_difference": differences})
    page = render(run)
    assert "The trained adapter</figcaption>" in page
    assert "The diffusers file in diffusers: differs by 0.01 of 255" in page
    assert "The kohya file in ComfyUI&#39;s arithmetic: differs by 3.25 of 255" in page
    assert "Could not be loaded:</strong> rex.kohya.safetensors." in page


def test_what_is_missing_names_the_command_that_makes_it(run):
    page = render(run)
    assert f"delora-sd score {run}" in page and "No training events yet" in page
    shutil.rmtree(run / "images")
    page = render(run)
    assert f"delora-sd generate {run}" in page
    (run / "manifest.json").unlink()
    assert "No manifest.json yet" in render(run)


def test_missing_photos_and_damaged_images_leave_the_rest_standing(run):
    score(run)
    shutil.rmtree(run.parent / "photos")
    (run / "images/main/00-s0.png").write_bytes(b"not an image")
    (run / "images/main/01-s0.png").unlink()
    page = render(run)
    assert page.count('<span class="tile gone">missing</span>') == 4, "two in the sheet, two in the opening"
    assert "photo folder" in page and "a qwe dog on the beach" in page


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        render(tmp_path)


def test_the_same_run_gives_the_same_bytes(run):
    train(run)
    score(run)
    write_report(ReportConfig(run=str(run)))
    before = (run / "report.html").read_bytes()
    write_report(ReportConfig(run=str(run)))
    assert (run / "report.html").read_bytes() == before


PROBE = """<script>
addEventListener("load", () => {
  const select = document.querySelector("select.sort"), order = () =>
    [...document.querySelectorAll("#main-sheet .card")].map((card) => Number(card.dataset.dino));
  select.value = "dino";
  select.dispatchEvent(new Event("change"));
  const sorted = order().every((value, index, all) => index === 0 || all[index - 1] >= value);
  document.querySelector("button.tile").click();
  const broken = [...document.images].filter((image) => image.src !== "data:," && !image.naturalWidth).length;
  const wide = document.documentElement.scrollWidth > innerWidth;
  document.title = JSON.stringify({ sorted, broken, wide, open: document.querySelector("dialog").open });
});
</script>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="NO CHROMIUM: the page is not opened in a browser")
def test_a_browser_shows_every_image_sorts_and_enlarges_without_a_console_message(run, tmp_path, open_in_browser):
    """The page's policy turns every attempted request into a console message, so silence means no request."""
    write_set(run, "main", [*PROMPTS, ATTACK])
    train(run)
    score(run)
    write_report(ReportConfig(run=str(run)))
    done = open_in_browser(run / "report.html")
    assert "a qwe dog in the snow" in done.stdout and "CONSOLE" not in done.stderr
    page = (run / "report.html").read_text().replace(' loading="lazy"', "")
    probed = tmp_path / "probed.html"
    probed.write_text(re.sub(r"<meta http-equiv=.*", "", page).replace("</body>", PROBE + "</body>"))
    done = open_in_browser(probed, "--window-size=520,900")
    title = html.unescape(re.search(r"<title>(.*?)</title>", done.stdout).group(1))
    assert json.loads(title) == {"sorted": True, "broken": 0, "wide": False, "open": True}


@pytest.mark.skipif(shutil.which("chromium") is None, reason="NO CHROMIUM: the page is not opened in a browser")
def test_the_policy_really_stops_a_request_and_says_so(tmp_path, open_in_browser):
    """Proves that the silence tested above can be broken."""
    write_report(ReportConfig(run=str(write_run(tmp_path))))
    page = (tmp_path / "run/report.html").read_text()
    spoiled = tmp_path / "spoiled.html"
    spoiled.write_text(page.replace("</body>", '<img src="https://example.org/x.png"><script>1</script></body>'))
    done = open_in_browser(spoiled)
    assert len(re.findall(r"CONSOLE.*(?:Content Security Policy|violates)", done.stderr)) >= 2
