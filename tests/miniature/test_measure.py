"""The gates' arithmetic against other people's code and plain loops; the build takes an earlier build on."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from delora_sd.miniature import WEIGHTS_FOLDER
from delora_sd.miniature.build import __main__ as build_module
from delora_sd.miniature.build.data import dataset
from delora_sd.miniature.build.gates import measure
from delora_sd.miniature.build.train import precision
from delora_sd.miniature.build.train import stage as stage_module
from delora_sd.miniature.build.train.unet import exported_weights
from delora_sd.miniature.build.train.weights import averaged_weights
from delora_sd.miniature.world.things.identity import typical_identity


def unit_features(seed: int, count: int, shift: float = 0.0) -> torch.Tensor:
    values = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)) + shift
    return F.normalize(values, dim=-1)


def test_kernel_distance_is_that_of_torchmetrics():
    from torchmetrics.image.kid import poly_mmd

    left, right = unit_features(0, 20), unit_features(1, 20, shift=0.5)
    expected = poly_mmd(left.double(), right.double(), degree=3, gamma=1.0, coef=1.0)
    assert measure.kernel_distance(left, right) == pytest.approx(float(expected), rel=1e-9)
    assert abs(measure.kernel_distance(left, unit_features(2, 20))) < 0.2 < measure.kernel_distance(left, right)


def test_likeness_pairs_pictures_of_one_class_and_never_a_picture_with_itself():
    left, right, words = unit_features(0, 7), unit_features(1, 7), ["a", "b", "a", "c", "b", "a", "c"]
    found = [
        float(left[i] @ right[j]) for i in range(7) for j in range(7) if i != j and words[i] == words[j]
    ]  # as the docstring says it
    assert measure.likeness(left, right, words) == pytest.approx(np.mean(found), abs=1e-6)


def test_typical_pictures_show_the_asked_class_in_its_typical_look():
    rng = np.random.default_rng(0)
    drawn = [typical_identity(rng, class_word="teapot") for _ in range(5)]
    assert all(one.class_word == "teapot" and one.is_typical for one in drawn)
    pictures = measure.typical_pictures(["teapot", "dog"], ["snow", "beach"], seed=1)
    assert pictures.shape == (2, 64, 64, 3) and pictures.dtype == np.uint8 and pictures[0].std() > 10


def test_bf16_is_used_only_where_the_processor_has_it(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for supported, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda supported=supported: supported)
        assert precision.compute_dtype(cpu) == dtype
        with precision.computing(cpu):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_a_build_that_starts_from_another_keeps_its_latents_and_judges_and_trains_its_unet_on(tmp_path, monkeypatch):
    words = ["build", "--preset", "smoke", "--device", "cpu", "--start-from", str(WEIGHTS_FOLDER)]
    words += ["--out", str(tmp_path / "out"), "--work-dir", str(tmp_path / "work")]
    monkeypatch.setitem(
        build_module.PRESETS,
        "smoke",
        build_module.Preset(**{**vars(build_module.PRESETS["smoke"]), "groups": 2, "workers": 1, "minutes_unet": 1e-4}),
    )
    monkeypatch.setattr("delora_sd.miniature.build.data.dataset.GROUPS_PER_SHARD", 2)
    clock = itertools.count(step=0.002)  # 1e-4 minutes are three steps on any machine
    monkeypatch.setattr(stage_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    (tmp_path / "work" / "pictures").mkdir(parents=True)
    dataset._write_shard((tmp_path / "work" / "pictures", 0))
    for stage in ("render", "vae", "unet", "judges", "export"):
        monkeypatch.setattr("sys.argv", [*words, "--stage", stage])
        build_module.main()
    before, after = exported_weights(WEIGHTS_FOLDER / "sd"), averaged_weights(tmp_path / "work" / "unet.safetensors")
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    assert 0 < (after[name] - before[name]).norm() < 0.05 * before[name].norm()
    for part in ("sd/vae/diffusion_pytorch_model.safetensors", "mini_dino/model.safetensors"):
        assert (tmp_path / "out" / part).read_bytes() == (WEIGHTS_FOLDER / part).read_bytes()
