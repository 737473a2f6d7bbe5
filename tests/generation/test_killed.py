"""Generation killed without warning, again and again, ends in the same bytes."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from image_files import hashes_in

from delora_sd.config.load import to_yaml
from delora_sd.files.run_folder import write_text
from delora_sd.generation.generate import generate

PROGRAM = """
import sys
from delora_sd.config.load import load_config
from delora_sd.generation.generate import generate
from delora_sd.settings import GenerateConfig
generate(load_config(GenerateConfig, [sys.argv[1]], []))
"""


@pytest.mark.slow
def test_killed_at_any_image_and_resumed_gives_the_same_bytes(config, run: Path, tmp_path: Path):
    settings = config(prompts=("dreambooth",), images_per_prompt=1, batch_size=4, num_inference_steps=2)
    undisturbed = generate(config(**vars(settings) | {"output_dir": str(tmp_path / "undisturbed")}))
    file = tmp_path / "generate.yaml"
    write_text(file, to_yaml(settings))
    folder = run / "images" / undisturbed.name
    for num_images in (1, 6, 11, 20):
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(file)], stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(folder.glob("[0-9]*.png"))) < num_images:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "finished before it could be killed"
    generate(settings)
    assert hashes_in(folder) == hashes_in(undisturbed)
    assert not list(folder.glob(".partial-*"))
