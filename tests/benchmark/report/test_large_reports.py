"""A report of many cells: each file read once, images beyond a number linked; and the table of where time went."""

import re
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import pytest

from delora_eval.benchmark import results
from delora_eval.benchmark.folder import profile_file
from delora_eval.benchmark.report.figures import sheets
from delora_eval.benchmark.report.numbers import view as views
from delora_eval.benchmark.report.numbers.times import time_table
from delora_eval.benchmark.report.numbers.view import read_view
from delora_eval.benchmark.report.report import report_benchmark
from delora_eval.benchmark.run.cell import profile
from delora_eval.benchmark.run.workers.launchers import run_benchmark
from delora_sd.errors import UserError
from delora_sd.files.run_folder import read_json, write_json

from ..conftest import small_grid, write_dataset
from ..fakes import fake_stages

ALL_METHODS = {"lora": {}, "delora": {}, "dora": {}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """3 methods x 2 subjects x 3 seeds at two steps, with profiles; tests write nothing but the report."""
    folder = tmp_path_factory.mktemp("large")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profile, "unet_flops", lambda base: 4e9)
        patch.setattr(profile, "decoder_flops", lambda base: 1e9)
        patch.setattr(profile, "matrix_rate", lambda device, dtype: 1e12)
        config = small_grid(
            folder / "bench",
            write_dataset(folder / "dataset"),
            methods=ALL_METHODS,
            seeds=[0, 1, 2],
            steps=[20, 40],
            profile=True,
        )
        return run_benchmark(config, fake_stages)


def test_every_file_is_read_once_and_settings_once_a_row(finished, monkeypatch):
    read = Counter()

    def counted(module, name: str) -> None:
        real = getattr(module, name)

        def count(*arguments, **named):
            read[name] += 1
            return real(*arguments, **named)

        monkeypatch.setattr(module, name, count)

    counted(results, "read_score_lines")
    counted(views, "read_run_settings")
    counted(views, "row_distances")
    finished.inputs.unlink()
    report_benchmark(finished)
    assert read == {"read_score_lines": 3 * 2 * 3, "read_run_settings": 3, "row_distances": 3}


def test_images_beyond_a_number_are_links_that_the_page_names(finished, monkeypatch):
    whole = report_benchmark(finished).read_text(encoding="utf-8")
    assert "links" not in whole and not re.search(r'src="(?!data:)', whole)
    monkeypatch.setattr(sheets, "MOST_EMBEDDED", 5)
    monkeypatch.setattr(sheets, "ROOM_BYTES", 1)
    monkeypatch.setattr(sheets, "_BATCH", 2)
    finished.inputs.unlink()
    page = report_benchmark(finished)
    shown = re.findall(r'<img[^>]* src="([^"]+)"', page.read_text(encoding="utf-8"))
    links = {source for source in shown if not source.startswith("data:")}
    assert 0 < len(set(shown) - links) < len(links), "the first ones are inside"
    assert links and all((page.parent / unquote(link)).is_file() for link in links)
    assert page.read_text(encoding="utf-8").count(f"{len(links)} images are links") == 2


def test_profiles_become_a_table_of_shares_beside_their_floor(finished):
    view = read_view(finished)
    rows = {(row[0], row[1]): row[2:] for row in time_table(view).rows}
    assert {stage for stage, _ in rows} == {"train", "generate", "score", "all"}
    shares = [float(row[1].rstrip("%")) for (stage, _), row in rows.items() if stage != "all"]
    assert sum(shares) == pytest.approx(100, abs=1)
    # 40 steps of one photo and one class image, forward and backward; per cell 6 images in 3 sets
    training, drawing, decoding = 40 * 2 * 2 * 4e9, 6 * 25 * 2 * 4e9, 6 * 1e9
    assert rows["all", "arithmetic"][2] == f"{(training + drawing + decoding) / 1e12:.2f}"


def test_a_profile_that_is_none_is_refused_by_name(finished):
    file = profile_file(finished.run(read_view(finished).cells[0]))
    kept = read_json(file)
    write_json(file, {"train": {"loading": "long"}})
    with pytest.raises(UserError, match="'loading'"):
        time_table(read_view(finished))
    write_json(file, kept)


def test_nobody_is_timed_unasked(tmp_path: Path):
    config = small_grid(tmp_path / "bench", write_dataset(tmp_path / "dataset"), seeds=[0], subjects=["dog"])
    folder = run_benchmark(config, fake_stages)
    assert not folder.profile.exists() and not list(folder.path.rglob("profile.json"))
    assert time_table(read_view(folder)).rows == ()
