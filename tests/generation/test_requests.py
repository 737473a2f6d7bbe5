"""Names of sets and images, and what is finished."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delora_sd.data.prompts import Prompt
from delora_sd.diffusion.families.family import Base
from delora_sd.diffusion.families.sd import SD
from delora_sd.diffusion.noise.schedule import read_noise_schedule
from delora_sd.files.run_folder import append_line, read_lines
from delora_sd.generation.requests import (
    SamplingSettings,
    describe_set,
    finished_files,
    plan_requests,
    slug,
    write_listing,
)

BASE = Base(
    name="tiny",
    folder=None,
    family=SD,
    configs={},
    size_px=32,
    latent_channels=4,
    latent_factor=4,
    smallest_px=4,
    num_text_tokens=77,
    schedule=read_noise_schedule({}, source="tiny"),
    fingerprint="f00",
    has_random_weights=True,
    version="sd1",
    is_distilled=False,
)
SAMPLING = SamplingSettings(num_inference_steps=25, guidance=7.5, negative_prompt="", size_px=32)
PROMPTS = [Prompt(index=i, template=text, text=text) for i, text in enumerate(("a qwe dog", "a <b>dog</b>/../x", "犬"))]
USUAL = {"base": BASE, "precision": "fp32", "sampling": SAMPLING, "adapters": {"abc": 1.0}, "step": None}


def _name(prompts=PROMPTS, **changes) -> str:
    return describe_set(Path("images"), prompts, **USUAL | changes).folder.name


def test_set_is_named_by_step_and_all_that_decides_an_image():
    names = [
        _name(),
        _name(step=1400),
        _name(adapters={"abc": 0.5}),
        _name(adapters={"abd": 1.0}),
        _name(adapters={"abc": 1.0, "other": 0.5}),
        _name(base=replace(BASE, fingerprint="f01")),
        _name(sampling=replace(SAMPLING, guidance=5.0)),
        _name(sampling=replace(SAMPLING, negative_prompt="blurry")),
        _name(precision="bf16"),
        _name(prompts=PROMPTS[:2]),
    ]
    assert len({name.rpartition("-")[2] for name in names if "step" not in name}) == len(names) - 1
    assert names[0].startswith("final-") and names[1].startswith("step-001400-") and _name() == names[0]


def test_a_sampling_setting_that_comes_later_leaves_drawn_sets_their_names():
    @dataclass(frozen=True, kw_only=True)
    class Later(SamplingSettings):
        sampler: str = "dpm"

    assert _name() == "final-81e189f3" == _name(sampling=Later(**vars(SAMPLING))), "named so by the first edition"
    assert _name(sampling=Later(**vars(SAMPLING), sampler="euler")) != _name()


def test_base_images_are_named_alike_whatever_run_they_are_asked_of():
    assert _name(adapters={}) == _name(adapters={"abc": 0.0}) == _name(adapters={"abd": 0.0}, step=5)
    assert _name(adapters={}).startswith("base-")


def test_facts_of_base_images_name_no_adapter():
    facts = describe_set(Path("images"), PROMPTS, **USUAL | {"adapters": {"abc": 0.0}, "step": 5}).facts
    assert (facts["adapter"], facts["step"], facts["strength"]) == (None, None, 0.0)


def test_extra_adapters_are_recorded():
    facts = describe_set(Path("images"), PROMPTS, **USUAL | {"adapters": {"abc": 1.0, "x": 0.5, "y": 0.0}}).facts
    assert facts["extra_adapters"] == {"x": 0.5} and facts["adapter"] == "abc"


def test_more_seeds_only_append():
    few, more = (plan_requests(Path("set"), PROMPTS, range(n)) for n in (2, 5))
    assert more[: len(few)] == few and len({request.file for request in more}) == 15
    assert [request.seed for request in few] == [0, 0, 0, 1, 1, 1]


def test_file_names_are_plain_and_stay_in_their_folder():
    names = [request.file.name for request in plan_requests(Path("set"), PROMPTS, [7])]
    assert names == ["00-a-qwe-dog-s7.png", "01-a-b-dog-b-x-s7.png", "02-s7.png"]


@given(st.text(max_size=300))
def test_slugs_are_plain(text: str):
    assert set(slug(text)) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") and len(slug(text)) <= 60


@pytest.fixture
def image_set(tmp_path: Path):
    return describe_set(tmp_path, PROMPTS, **USUAL)


def test_only_what_is_listed_and_there_is_finished(image_set):
    requests = plan_requests(image_set.folder, PROMPTS, [0])
    for request in requests[:2]:
        append_line(image_set.listing, image_set.record(request))
    requests[0].file.write_bytes(b"")
    requests[2].file.write_bytes(b"")  # written, but the run died before it was listed
    assert finished_files(image_set) == {requests[0].file.name}
    assert len(read_lines(image_set.listing)) == 1


def test_a_torn_line_is_dropped_before_more_is_appended(image_set):
    request, other = plan_requests(image_set.folder, PROMPTS, [0])[:2]
    append_line(image_set.listing, image_set.record(request))
    request.file.write_bytes(b"")
    with image_set.listing.open("a") as file:
        file.write('{"file": "01-a-b')
    assert finished_files(image_set) == {request.file.name}
    append_line(image_set.listing, image_set.record(other))
    assert [line["file"] for line in read_lines(image_set.listing)] == [request.file.name, other.file.name]


def test_listing_is_in_order_whatever_the_history(image_set):
    records = [image_set.record(request) for request in plan_requests(image_set.folder, PROMPTS, [0, 1])]
    write_listing(image_set, records)
    expected = image_set.listing.read_bytes()
    write_listing(image_set, records[::-1])
    assert image_set.listing.read_bytes() == expected
