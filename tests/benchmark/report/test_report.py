"""The report against numbers computed by hand, and the page opened in a browser."""

import csv
import html
import json
import re
import shutil
import statistics
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from delora_eval.benchmark.folder import BenchmarkFolder
from delora_eval.benchmark.report.contents import build_tables, main_table, scores_csv
from delora_eval.benchmark.report.figures import figures, map_figure
from delora_eval.benchmark.report.figures.figures import build_figures
from delora_eval.benchmark.report.numbers.rows import setting_label
from delora_eval.benchmark.report.numbers.view import read_view
from delora_eval.benchmark.report.report import report_benchmark
from delora_eval.benchmark.results import read_results, select_steps
from delora_eval.benchmark.run.workers.launchers import run_benchmark
from delora_eval.pages.tables import Table, render_csv, render_latex, render_markdown
from delora_sd.files.run_folder import read_lines, write_lines

from ..conftest import small_grid, write_dataset
from ..fakes import Failures, clip_t_of, dino_of, fake_stages, shift_of

ATTACK = "<script>alert(1)</script>"


STUDY = {"steps": [20, 40], "title": f"Study {ATTACK}", "paper": "table3"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished benchmark of two methods, two subjects, two seeds and two steps; never written to."""
    folder = tmp_path_factory.mktemp("finished")
    return run_benchmark(small_grid(folder / "bench", write_dataset(folder / "dataset"), **STUDY), fake_stages)


@pytest.fixture
def benchmark(make_config):
    """Returns a function: (failures, changes) -> a benchmark like `finished`, with them, of the test's own."""

    def run(failures: Failures | None = None, **changes):
        config = make_config(**STUDY | changes)
        return run_benchmark(config, lambda settings: fake_stages(settings, failures))

    return run


def test_main_table_equals_a_hand_computation(finished):
    view = read_view(finished)
    table = main_table(view, view.main)
    assert [row[0] for row in table.rows] == ["Real images", "lora", "delora"]
    for method, row in zip(("lora", "delora"), table.rows[1:], strict=True):
        seeds = [statistics.mean(dino_of(method, subject, seed, 40) for subject in ("dog", "cat")) for seed in (0, 1)]
        std = statistics.stdev(seeds)
        digits = 3 if std >= 0.01 else 4
        assert row[2] == f"{statistics.mean(seeds):.3f} ± {std:.{digits}f} ({max(seeds):.3f})"
    assert table.rows[0][2] == "0.900"
    assert table.rows[2][-2:] == ("0.686 ± 0.0056 (0.693)", "0.820 ± 0.0027 (0.820)")


def test_subject_fidelity_never_stands_without_prompt_fidelity(finished):
    view = read_view(finished)
    for table in build_tables(view):
        if any(column.endswith("DINO") for column in table.columns):
            assert any(column.endswith("CLIP-T") for column in table.columns), table.name


def test_every_number_is_in_the_csv(finished):
    view = read_view(finished)
    rows = list(csv.DictReader(render_csv(scores_csv(view)).splitlines()))
    own = [row for row in rows if row["score"] == "dino"]
    assert len(own) == 2 * 2 * 2 * 2
    for row in own:
        assert float(row["value"]) == dino_of(row["method"], row["subject"], int(row["seed"]), int(row["step"]))


def test_checkpoint_rules_choose_the_last_the_best_and_the_best_of_each_prompt(finished):
    """lora is best at its first step; of every method the first prompt is best early, the second late."""
    results = read_results(finished, read_view(finished).cells)

    def chosen(rule: str) -> set[tuple[str, int | None]]:
        return {(result.cell.method, result.step) for result in select_steps(results, rule)}

    assert chosen("fixed_step") == {("lora", 40), ("delora", 40)}
    assert chosen("best_step_per_method") == {("lora", 20), ("delora", 40)}
    assert chosen("best_step_per_prompt") == {("lora", None), ("delora", None)}
    for result in select_steps(results, "best_step_per_prompt"):
        cell = result.cell
        early, late = (dino_of(cell.method, cell.subject, cell.seed, step) for step in (20, 40))
        dino = ((early - shift_of(20)) + (late + shift_of(40))) / 2
        clip_t = ((clip_t_of(early) - shift_of(20)) + (clip_t_of(late) + shift_of(40))) / 2  # at the steps DINO chose
        assert result.totals["dino"].value == pytest.approx(dino, abs=1e-6)
        assert result.totals["clip_t"].value == pytest.approx(clip_t, abs=1e-6)
        assert result.totals["dino"].pairs == 8


def with_held_out_scores(folder) -> None:
    """Adds to every cell what a judge would say against held-out photos: the reverse order of the methods."""
    for file in folder.path.glob("cells/*/scores.jsonl"):
        lines = read_lines(file)
        extra = []
        for line in lines:
            shift = {"lora": 0.3, "delora": 0.1, "dora": 0.2}[file.parent.name.split("-")[0]]
            if line["score"] == "dino":
                extra += [
                    line | {"score": "dino_held_out", "value": shift},
                    line | {"score": "rank_top1", "value": 1 - shift},
                ]
            if line["score"] == "real_dino":
                extra.append(line | {"score": "real_dino_held_out", "value": 0.8})
        write_lines(file, lines + extra)


def test_references_decide_what_the_main_table_and_the_first_figure_show(benchmark, make_config):
    for references, columns in (
        ("trained", ["mini-DINO", "mini-CLIP-I", "mini-CLIP-T"]),
        ("held_out", ["mini-DINO held-out", "mini-CLIP-T"]),
        ("both", ["mini-DINO", "mini-DINO held-out", "mini-CLIP-I", "mini-CLIP-T"]),
    ):
        base = make_config().train
        folder = benchmark(references=references, train=base | {"data.hold_out": 1})
        with_held_out_scores(folder) if references == "trained" else None
        view = read_view(folder)
        shown = main_table(view, view.main).columns
        assert [column for column in shown if column.startswith("mini-")] == columns
        first = build_figures(view)[0]
        assert first.name == "plane" and first.choice.startswith(columns[0])
    assert main_table(view, view.main).rows[0][4] == "0.800"


def test_the_reader_picks_the_judge_of_the_plane(benchmark):
    folder = benchmark()
    with_held_out_scores(folder)
    planes = [figure for figure in build_figures(read_view(folder)) if figure.choice]
    assert [figure.choice.split(",")[0] for figure in planes] == [
        "mini-DINO", "mini-CLIP-I", "mini-DINO held-out", "Own subject first",
    ]  # fmt: skip
    assert len({figure.name for figure in planes}) == 4
    report_benchmark(folder)
    page = folder.report.read_text()
    assert page.count('data-picked="figure"') == 4 and page.count("figure hidden") == 3
    assert page.index('id="figure-plane"') < page.index('id="results"')


def test_judges_that_disagree_about_the_order_of_methods_are_told(benchmark):
    from scipy.stats import kendalltau

    folder = benchmark(methods={"lora": {}, "delora": {}, "dora": {}})
    with_held_out_scores(folder)
    view = read_view(folder)
    table = next(table for table in build_tables(view) if table.name == "agreement")
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["mini-DINO held-out"][1:4] == ("1", "3", "2") and rows["Own subject first"][1:4] == ("3", "1", "2")
    means = [
        statistics.mean(dino_of(method, subject, seed, 40) for subject in ("dog", "cat") for seed in (0, 1))
        for method in ("lora", "delora", "dora")
    ]
    places = tuple(str(1 + sum(other > mean for other in means)) for mean in means)
    assert rows["mini-DINO"][1:4] == places and rows["mini-DINO"][4] == "+1.00"
    assert float(rows["mini-DINO held-out"][4]) == pytest.approx(kendalltau([0.3, 0.1, 0.2], means).statistic, abs=0.01)
    assert rows["mini-CLIP-T"][0] == "prompt"


def test_two_methods_are_too_few_to_disagree(benchmark):
    assert not any(table.name == "agreement" for table in build_tables(read_view(benchmark())))


def test_a_row_that_lost_cells_says_so(benchmark):
    view = read_view(benchmark(Failures(diverges=("delora",))))
    tables = {table.name: table for table in build_tables(view)}
    assert tables["results"].rows[2][0] == "delora (4 of 4 diverged)"
    assert {row[1] for row in tables["failures"].rows} == {"diverged"}
    assert "the loss was not finite at step 20" in tables["failures"].rows[0][2]


def test_report_writes_every_form_and_links_nothing(finished):
    for name in ("results", "differences", "steps", "further", "subjects", "cost"):
        assert all((finished.tables / f"{name}{ending}").stat().st_size for ending in (".md", ".csv", ".tex"))
    for name in ("plane", "steps"):
        assert (finished.figures / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        ElementTree.parse(finished.figures / f"{name}.svg")
    page = finished.report.read_text()
    assert not re.search(r'(?:src|href)="(?!data:|#)[^"]+"', page)
    assert "url(http" not in page and "@import" not in page
    assert ATTACK not in page and "&lt;script&gt;" in page
    assert "<script>snow</script>" not in page
    assert ATTACK not in finished.markdown.read_text()


def test_names_and_labels_are_text_in_every_form(benchmark):
    """HTML, quotes, TeX's dollars: in the page, in its drawings, in the tables."""
    hostile = '"><img src=x onerror=alert(1)> </text><script>alert(2)</script> $\\frac{1$ {{7*7}} %s'
    methods = {"lora": {"label": hostile}, "delora": {"label": "$x_{$"}}
    folder = benchmark(methods=methods, title=hostile, matrix={"optimizer.lr": [0.01, 0.02]})
    page = (folder.path / "report.html").read_text()
    assert "<img src=x" not in page and "<script>alert" not in page and "{{7*7}}" in page
    drawings = list((folder.path / "figures").glob("*.svg"))
    assert drawings
    for drawing in drawings:
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse(drawing).iter()}
        assert not tags & {"script", "img", "foreignObject"}


@pytest.fixture
def copied(finished, tmp_path):
    """The test's own copy of the finished benchmark."""
    return BenchmarkFolder(Path(shutil.copytree(finished.path, tmp_path / "copied")))


def test_the_same_benchmark_gives_the_same_bytes(copied):
    folder = copied
    written = []
    for _ in range(2):
        folder.inputs.unlink()
        report_benchmark(folder)
        files = (folder.report, folder.markdown, folder.figures / "plane.svg")
        written.append([path.read_bytes() for path in files])
    assert written[0] == written[1]


def test_random_weights_and_the_miniature_are_announced(copied):
    folder = copied
    assert "Miniature world." in folder.report.read_text() and "RANDOM WEIGHTS" not in folder.report.read_text()
    for scores in folder.path.glob("cells/*/scores.jsonl"):
        scores.write_text(scores.read_text().replace('"random_weights": false', '"random_weights": true'))
    report_benchmark(folder)
    assert "RANDOM WEIGHTS" in folder.report.read_text() and "RANDOM WEIGHTS" in folder.markdown.read_text()


def painted(monkeypatch, module, make_figure, folder):
    """Returns the axes of one figure of the report as matplotlib holds them."""
    from matplotlib.figure import Figure

    made = []

    def paint_only(name, title, caption, paint, *, panels=1):
        figure = Figure()
        made.extend(figure.subplots(1, panels, squeeze=False)[0])
        paint(figure, made)

    monkeypatch.setattr(module, "draw", paint_only)
    view = read_view(folder)
    make_figure(view, view.main)
    return made


def lines_of(axis) -> dict[str, list[tuple[float, float]]]:
    return {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axis.get_lines()}


def mean_dino(method: str, step: int = 40, *, lr: float | None = None, seeds=(0, 1)) -> float:
    return statistics.mean(dino_of(method, s, seed, step, lr=lr) for s in ("dog", "cat") for seed in seeds)


def test_a_sweep_shows_each_methods_mean_against_the_factor(benchmark, monkeypatch):
    train = {"optimizer.lr": 1e-3}
    methods = {"lora": train, "delora": train}
    swept = benchmark(methods=methods, factors=[4, 1], projection="to_out.0", steps=[])
    assert ElementTree.parse(swept.figures / "sweep.svg").getroot().tag.endswith("svg")
    subject, prompt, distance = painted(monkeypatch, figures, figures.sweep_figure, swept)
    for method in methods:
        expected = [(factor, mean_dino(method, lr=factor * 1e-3)) for factor in (1, 4)]
        assert lines_of(subject)[method] == [pytest.approx(point) for point in expected]
        assert [x for x, _ in lines_of(prompt)[method]] == [1, 4]
    assert [list(line.get_ydata()) for line in distance.get_lines()] == [[4.0, 4.0]] * 2  # of step 40, in the events
    assert subject.get_xscale() == "log" and subject.get_xlabel() == "factor on the base rate"
    assert "subject fidelity" in subject.get_title("left") and "to_out.0" in distance.get_title("left")


def test_curves_over_training_show_each_steps_mean(finished, monkeypatch):
    subject, _, distance = painted(monkeypatch, figures, figures.steps_figure, finished)
    for method in ("lora", "delora"):
        expected = [(step, mean_dino(method, step)) for step in (20, 40)]
        assert lines_of(subject)[method] == [pytest.approx(point) for point in expected]
    assert lines_of(distance).popitem()[1] == [(0, 0.0), (20, 2.0), (40, 4.0)]


def test_a_map_of_two_settings_has_rates_across_and_boundaries_up(benchmark, monkeypatch):
    matrix = {"adapter.boundary": [8, 2], "optimizer.lr": [1e-2, 1e-3, 1e-4]}
    folder = benchmark(methods={"delora": {}}, matrix=matrix, steps=[], seeds=[0])
    assert ElementTree.parse(folder.figures / "map-delora.svg").getroot().tag.endswith("svg")
    subject, _ = painted(
        monkeypatch, map_figure, lambda view, main: map_figure.map_figure(view, main, "delora"), folder
    )
    row = [mean_dino("delora", lr=lr, seeds=(0,)) for lr in (1e-4, 1e-3, 1e-2)]
    assert subject.get_images()[0].get_array().tolist() == [pytest.approx(row)] * 2
    assert [tick.get_text() for tick in subject.get_xticklabels()] == ["0.0001", "0.001", "0.01"]
    assert [tick.get_text() for tick in subject.get_yticklabels()] == ["2", "8"]
    assert (subject.get_xlabel(), subject.get_ylabel()) == ("lr", "λ")


def test_settings_are_named_as_the_field_names_them():
    assert setting_label({"optimizer.lr": 0.02, "adapter.boundary": 8.0}) == "lr 0.02, λ 8"
    assert setting_label({"factor": 4, "adapter.init": "mirrored"}) == "×4, init mirrored"


def test_tables_are_valid_in_every_form():
    rows = (("a_b & <b>|", "0.5 ± 0.1"), ("=SUM(A1)", "-1.5"))
    table = Table(name="t", title="50% of #1", columns=("Method", "λ"), rows=rows, notes=("a note",))
    assert r"a\_b \& <b>|" in render_latex(table) and r"50\% of \#1" in render_latex(table)
    assert "| a_b &amp; &lt;b>\\| | 0.5 ± 0.1 |" in render_markdown(table)
    assert list(csv.reader(render_csv(table).splitlines()))[2] == ["'=SUM(A1)", "-1.5"]


PROBE = """
<script>
window.addEventListener("load", () => {
  const shown = (selector) => [...document.querySelectorAll(selector)].filter((element) => element.offsetParent).length;
  const choose = (what, value) => {
    const select = document.querySelector(`select[data-filter="${what}"]`);
    select.value = value;
    select.dispatchEvent(new Event("change"));
  };
  const all = { sheets: shown(".sheet-panel"), strips: shown(".strip[data-method]"), frames: shown(".frame") };
  choose("subject", "cat");
  const cat = { sheets: shown(".sheet-panel") };
  choose("method", "delora");
  const delora = { strips: shown(".strip[data-method]") };
  choose("subject", "");
  choose("method", "");
  choose("prompt", "1");
  const prompt = { frames: shown(".frame") };
  choose("prompt", "");
  const broken = [...document.images].filter((image) => image.src !== "data:," && !image.naturalWidth).length;
  const wide = document.documentElement.scrollWidth > innerWidth;
  document.title = JSON.stringify({ all, cat, delora, prompt, broken, wide });
});
</script>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="NO CHROMIUM: the page is not opened in a browser")
def test_a_browser_shows_every_image_and_filters_without_a_console_message(benchmark, tmp_path, open_in_browser):
    """The page's policy turns every attempted request into a console message, so silence means no request."""
    folder = benchmark(steps=[])
    done = open_in_browser(folder.report)
    assert "Subject fidelity against prompt fidelity" in done.stdout and "CONSOLE" not in done.stderr
    page = folder.report.read_text().replace(' loading="lazy"', "")
    probed = tmp_path / "probed.html"
    probed.write_text(re.sub(r"<meta http-equiv=.*", "", page).replace("</body>", PROBE + "</body>"))
    done = open_in_browser(probed, "--window-size=520,900")
    title = html.unescape(re.search(r"<title>(.*?)</title>", done.stdout).group(1))
    assert json.loads(title) == {
        "all": {"sheets": 2, "strips": 4, "frames": 8},
        "cat": {"sheets": 1},
        "delora": {"strips": 1},
        "prompt": {"frames": 4},
        "broken": 0,
        "wide": False,
    }
