"""LPIPS written out here equals the lpips package on the same weights."""

import pytest
import torch
from safetensors.torch import save_file, save_model
from standins import PROMPTS, make_judge, write_run, write_set

from delora_eval.scoring.inputs.task import read_task
from delora_eval.scoring.judges.lpips import LAYERS, load_lpips, pairwise_lpips
from delora_eval.scoring.score import find_protocols, score_task
from delora_eval.settings import ScoreConfig
from delora_sd.errors import UserError


@pytest.fixture
def lpips_file(tmp_path):
    """Random weights in the layout of `lpips.LPIPS(net="alex")`."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"slice1.0": (64, 3, 11, 11), "slice2.3": (192, 64, 5, 5), "slice3.6": (384, 192, 3, 3)}
    shapes |= {"slice4.8": (256, 384, 3, 3), "slice5.10": (256, 256, 3, 3)}
    tensors = {}
    for index, (name, *_) in enumerate(LAYERS):
        shape = shapes[name]
        tensors[f"net.{name}.weight"] = torch.randn(shape, generator=generator) / (shape[1] * shape[2] ** 2) ** 0.5
        tensors[f"net.{name}.bias"] = torch.zeros(shape[0])
        tensors[f"lin{index}.model.1.weight"] = torch.rand(1, shape[0], 1, 1, generator=generator)
    file = tmp_path / "lpips.safetensors"
    save_file(tensors, file)
    return file


@pytest.mark.filterwarnings("ignore")  # the lpips package uses arguments that torchvision deprecated
def test_distances_equal_the_lpips_package(tmp_path):
    lpips = pytest.importorskip("lpips", reason="NO LPIPS PACKAGE: our LPIPS is not compared with it")
    theirs = lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False)
    save_model(theirs, tmp_path / "lpips.safetensors")
    weights, _ = load_lpips(tmp_path / "lpips.safetensors")
    images = torch.rand(3, 3, 96, 80) * 2 - 1
    with torch.inference_mode():
        expected = torch.stack([theirs(images, image.expand_as(images)).flatten() for image in images])
    torch.testing.assert_close(pairwise_lpips(images, weights), expected, atol=1e-5, rtol=1e-4)


def test_lpips_diversity_is_scored_only_with_its_weights_and_carries_their_hash(tmp_path, lpips_file):
    run = write_run(tmp_path)
    write_set(run, "main", PROMPTS[:1])
    config = ScoreConfig(run=str(run), sets=("main",), lpips_weights=str(lpips_file))
    task = read_task(config)
    lines = score_task(make_judge(), find_protocols(config, task), task)
    (total,) = [line for line in lines if line["score"] == "diversity_lpips" and line["prompt"] is None]
    assert total["value"] > 0 and total["pairs"] == 1 and total["encoder"] == "lpips/alex"
    assert total["weights"] == load_lpips(lpips_file)[1] and len(total["weights"]) == 16
    task = read_task(ScoreConfig(run=str(run), sets=("main",)))
    assert "diversity_lpips" not in {
        line["score"] for line in score_task(make_judge(), find_protocols(config, task), task)
    }


def test_other_weights_are_refused(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"no net\.slice1\.0\.weight"):
        load_lpips(tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="no such file"):
        read_task(ScoreConfig(run=str(write_run(tmp_path)), lpips_weights=str(tmp_path / "y.safetensors")))
