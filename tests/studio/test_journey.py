"""From four photos to a file in diffusers, by clicks alone: train, stop, resume, choose, create, take away."""

import time
from pathlib import Path
from typing import Any

import pytest
from browser import needs_browser, open_studio, visiting

from delora_sd.studio.folder import StudioFolder
from delora_sd.studio.jobs.job import job_state
from delora_sd.studio.jobs.queue import list_jobs

SETTINGS = "\n".join(
    (
        "training.num_steps=30", "training.checkpoint_every=10", "training.log_every=1", "adapter.rank=4",
        "preview.every=10", "preview.num_inference_steps=3",
    )
)  # fmt: skip


def set_number(page: Any, selector: str, number: int) -> None:
    field = page.locator(f"{selector} input[type=number]")
    field.fill(str(number))
    field.blur()


def load_in_diffusers(file: Path) -> None:
    """Loads the file as its user would, and finds that it changes the image."""
    import torch
    from diffusers import StableDiffusionPipeline

    from delora_sd.miniature import BASE_FOLDER

    pipe = StableDiffusionPipeline.from_pretrained(BASE_FOLDER, safety_checker=None)
    settings = {"num_inference_steps": 2, "output_type": "np"}
    images = []
    for scale in (0, 1):
        pipe.unload_lora_weights()
        pipe.load_lora_weights(str(file.parent), weight_name=file.name)
        pipe.set_adapters(pipe.get_active_adapters(), adapter_weights=[float(scale)])
        images.append(pipe("a photo of qwe dog", generator=torch.Generator().manual_seed(0), **settings).images[0])
    assert abs(images[0] - images[1]).max() > 0


@pytest.mark.slow
@needs_browser
@pytest.mark.filterwarnings("default")
def test_the_whole_journey_on_the_miniature(tmp_path: Path, uploads: list[Path]):
    folder, began = StudioFolder(tmp_path / "studio"), time.monotonic()
    with open_studio(folder.path) as url:
        with visiting(url) as visit:
            page = visit.page
            page.fill("#new-name :is(input, textarea)", "rex")
            page.fill("#new-word :is(input, textarea)", "dog")
            page.click("#create-subject")
            visit.see(".st-notice.good")
            page.set_input_files("#drop input[type=file]", uploads)
            page.wait_for_function("document.querySelectorAll('.st-photo').length === 4")
            visit.room("2 Train")
            page.click("#train-more button")
            page.fill("#more-settings textarea", SETTINGS)
            page.locator("#more-settings textarea").blur()
            page.wait_for_function("document.querySelector('#plan').textContent.includes('30')")
            page.click("#start")
            page.wait_for_selector("#runs >> text=/step [1-9]\\d* of 30/")
        with visiting(url) as visit:  # closed in the middle, and everything is there again
            page = visit.page
            visit.room("2 Train")
            visit.see("#runs .st-button.stop").click()
            visit.see("#runs .st-button.go").click()
            page.wait_for_selector("#runs .st-pill.good")
            page.wait_for_function("document.querySelectorAll('#runs .st-curve').length === 3")
            visit.room("3 Choose")
            set_number(page, "#choose-images", 1)
            set_number(page, "#choose-denoise", 5)
            page.click("#choose")
            visit.see(".st-verdict")
            visit.room("4 Create")
            page.click("#create-more button")
            set_number(page, "#denoise", 5)
            page.click("#create")
            page.wait_for_function("document.querySelectorAll('#gallery figure').length >= 4")
            visit.room("5 Take away")
            with page.expect_download() as download:
                visit.see("#files a[download$='.diffusers.safetensors']").click()
            download.value.save_as(tmp_path / "rex.diffusers.safetensors")
            assert visit.requests == []
    load_in_diffusers(tmp_path / "rex.diffusers.safetensors")
    states = {job.kind: job_state(job) for job in list_jobs(folder)}
    assert states == {"train": "done", "choose": "done", "generate": "done"}
    print(f"the journey took {time.monotonic() - began:.0f} s")
