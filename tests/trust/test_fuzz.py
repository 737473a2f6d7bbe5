"""The fuzzer in short: a few cases of every reader, that it notices what it is for, and what it once found."""

import json
import pickle
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import fuzz_watch
from delora_sd.errors import UserError
from fuzz import Fuzzer, fuzz, main
from fuzz_readers import READERS
from fuzz_seeds import benchmark_files, run_files
from fuzz_targets import TARGETS, Case, Target, read_settings
from fuzz_watch import Watch

CELL = "run/cells/lora-dog-s0-1a2b3c4d"


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """As on the command line: a warning is no finding."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def watch(tmp_path_factory) -> Watch:
    folder = tmp_path_factory.mktemp("watch") / "cases"
    folder.mkdir()
    return Watch(folder)


@pytest.mark.parametrize("name", TARGETS)
def test_the_good_files_are_accepted_and_broken_ones_are_no_finding(name: str, watch: Watch):
    fuzzer = Fuzzer(seed=20, watch=watch)
    for number in range(25):
        fuzzer.run_case(TARGETS[name], number)
    tally = fuzzer.tallies[name]
    assert fuzzer.findings == [] and tally.cases == tally.accepted + tally.refused == 25
    assert tally.accepted and tally.refused


def test_a_case_depends_on_seed_and_number_only(watch: Watch):
    for target in TARGETS.values():
        first, again = (Fuzzer(seed=4, watch=watch).draw(target, 7) for _ in range(2))
        assert first == again != Fuzzer(seed=5, watch=watch).draw(target, 7)


def bad_reader(kind: str, outside: Path) -> Target:
    def run(folder: Path, words: tuple[str, ...]) -> None:
        if b"!" not in (folder / "a").read_bytes():
            return
        match kind:
            case "raises":
                raise KeyError("x")
            case "hangs":
                time.sleep(5)
            case "writes outside":
                (outside / "b").write_text("x")
            case "opens a pickle":
                pickle.loads(pickle.dumps(Path("x")))
            case "says nothing":
                raise UserError(" ")

    return Target(name="bad", draw=lambda chance: Case(files={"a": b"x" * 50 + b"!"}, changed="a"), run=run)


@pytest.mark.parametrize("kind", ["raises", "hangs", "writes outside", "opens a pickle", "says nothing"])
def test_what_no_reader_may_do_is_noticed_and_made_small(kind: str, watch: Watch, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(fuzz_watch, "LIMIT_S", 0.2)
    fuzzer = fuzz([bad_reader(kind, tmp_path)], seed=1, seconds=0.01, watch=watch)
    assert len(fuzzer.findings) == 1 and fuzzer.tallies["bad"].accepted == 0
    assert fuzzer.findings[0].content == "!"
    assert "--seed 1 --case bad:0" in capsys.readouterr().out


def test_the_record_says_what_was_done(tmp_path: Path, capsys):
    assert main(["--seconds", "0.04", "--seed", "3", "--record", str(tmp_path / "r.json")]) == 0
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["seed"] == 3 and record["findings"] == [] and set(record["targets"]) == set(TARGETS)
    assert all(tally["cases"] == tally["accepted"] + tally["refused"] for tally in record["targets"].values())


def lay_out(files: dict[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder / "run"


def first_line(content: bytes, **values) -> bytes:
    line, *others = content.decode().splitlines()
    return "\n".join([json.dumps(json.loads(line) | values), *others, ""]).encode()


def test_found_a_number_too_large_for_a_float_is_kept_as_it_is_written(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("tune: {matrix: {a: 1e999, b: " + "9" * 400 + "}}\n")
    with pytest.raises(UserError, match="unknown setting"):  # written and read again: the same
        read_settings(tmp_path, ("benchmark", "methods.lora.adapter.rank=2"))


def test_found_an_image_whose_name_is_no_name(tmp_path: Path):
    files = dict(run_files())
    listing = "run/images/final-1a2b/images.jsonl"
    files[listing] = first_line(files[listing], file="\ud800")
    with pytest.raises(UserError, match=r"line 1: .* is not the name of an image"):
        READERS["page"](lay_out(files, tmp_path))


def test_found_an_image_without_its_guidance(tmp_path: Path):
    files = dict(run_files())
    listing = "run/images/final-1a2b/images.jsonl"
    files[listing] = b'{"file": "a.png", "prompt": "a qwe dog", "num_inference_steps": 25}\n'
    READERS["page"](lay_out(files, tmp_path))


def test_found_a_method_that_is_a_word(tmp_path: Path):
    files = dict(benchmark_files())
    files["run/benchmark.yaml"] = files["run/benchmark.yaml"].replace(b'{"label": "LoRA"}', b"x")
    with pytest.raises(UserError, match=r"methods\.lora: expected settings, found \"x\""):
        READERS["benchmark"](lay_out(files, tmp_path))


def test_found_a_run_whose_base_has_no_name(tmp_path: Path):
    files = dict(run_files())
    files["run/manifest.json"] = first_line(files["run/manifest.json"], base={})
    READERS["page"](lay_out(files, tmp_path))


def test_found_a_search_by_a_score_that_nobody_knows(tmp_path: Path):
    files = dict(benchmark_files())
    files["run/chosen.json"] = files["run/chosen.json"].replace(b'"dino"', b'"dinosaur"')
    with pytest.raises(UserError, match="unknown score 'dinosaur'"):
        READERS["benchmark"](lay_out(files, tmp_path))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("manifest.json", {"pack": 0}),
        ("images/final-1a2b/images.jsonl", {"prompt": ""}),
        ("events.jsonl", {"layers": {"down_blocks.0.to_q": {"relative_distance": 0.1}}}),
    ],
)
def test_found_a_benchmark_that_lacks_a_number_still_has_its_tables(name: str, values: dict, tmp_path: Path):
    files = dict(benchmark_files())
    files[f"{CELL}/{name}"] = first_line(files[f"{CELL}/{name}"], **values)
    READERS["benchmark"](lay_out(files, tmp_path))


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_found_text_that_no_path_can_hold(text: str, tmp_path: Path):
    (tmp_path / "a.yaml").write_text(f"data: {{photos: {json.dumps(text)}}}\n")
    with pytest.raises(UserError, match=r"data\.photos: expected text, found .* with a NUL or half a character"):
        read_settings(tmp_path, ("train",))
