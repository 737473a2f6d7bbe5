"""Segmenters by name: the miniature's own, transformers' by folder, CSAIL's network and its conversion."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from delora_eval.maps.segmenters import load_segmenter, segmenter_name
from delora_eval.maps.settings import MapJudgeConfig
from delora_eval.maps.upernet import UperNet, find_classes
from delora_sd.errors import UserError
from delora_sd.maps.palette import find_palette, scene_parse_150

SMALL = {"depths": (1, 1, 1, 1), "width": 4, "pyramid": 8}


@pytest.fixture
def segformer(tmp_path: Path) -> Path:
    """A SegFormer of 150 classes with random weights, as the hub's folders are laid out."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

    config = SegformerConfig(
        num_labels=150, depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 16], decoder_hidden_size=8,
        num_attention_heads=[1, 1, 2, 2], sr_ratios=[4, 2, 1, 1],
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        SegformerForSemanticSegmentation(config).save_pretrained(tmp_path)
    SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    return tmp_path


def test_the_miniature_judges_its_own_maps_and_segformer_all_others():
    assert segmenter_name(MapJudgeConfig(), "miniature") == "miniature"
    assert segmenter_name(MapJudgeConfig(), "data/ADEChallengeData2016") == "segformer-b4"
    assert segmenter_name(MapJudgeConfig(segmenter="x/y"), "miniature") == "x/y"


def test_a_transformers_segmenter_answers_for_every_pixel_at_every_size(segformer: Path):
    segmenter = load_segmenter(MapJudgeConfig(), str(segformer), scene_parse_150())
    images = [Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 40, 3), dtype=np.uint8)) for i in range(2)]
    first, second = segmenter.find(images, [(40, 40), (30, 70)])
    assert first.shape == (40, 40) and second.shape == (30, 70) and first.min() >= 1 and first.max() <= 150


def test_a_segmenter_of_other_classes_is_refused(segformer: Path, map_folder: Path):
    with pytest.raises(UserError, match="knows 150 classes, the maps have 34"):
        load_segmenter(MapJudgeConfig(), str(segformer), find_palette(map_folder))
    with pytest.raises(UserError, match="knows 34 classes, the maps have 150"):
        load_segmenter(MapJudgeConfig(), "miniature", scene_parse_150())


def test_what_is_no_segmenter_is_said(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    for name in (str(tmp_path), "/nowhere/at/all"):
        with pytest.raises(UserError, match="cannot be loaded"):
            load_segmenter(MapJudgeConfig(), name, scene_parse_150())
    with pytest.raises(UserError, match=r"convert_upernet\.py"):
        load_segmenter(MapJudgeConfig(), "upernet-101", scene_parse_150())


def test_upernet_is_a_resnet_101_with_a_deep_stem():
    with torch.device("meta"):
        model = UperNet(150)
    names = dict(model.named_parameters())
    assert names["encoder.layer3.22.conv3.weight"].shape == (1024, 256, 1, 1)
    assert names["decoder.ppm_last_conv.0.weight"].shape == (512, 2048 + 4 * 512, 3, 3)
    depths = [len(getattr(model.encoder, f"layer{level}")) for level in (1, 2, 3, 4)]
    assert depths == [3, 4, 23, 3] and names["encoder.conv3.weight"].shape == (128, 64, 3, 3)


def test_upernet_sees_images_of_any_size_and_is_the_same_through_a_larger_canvas():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = UperNet(7, **SMALL).eval()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8))
    (found,) = find_classes(model, [image], [(50, 70)], torch.device("cpu"))
    assert found.shape == (50, 70) and found.min() >= 1 and found.max() <= 7


def test_the_conversion_keeps_every_tensor_and_refuses_another_network(tmp_path: Path, monkeypatch):
    import convert_upernet
    from delora_sd.files.tensors import read_tensors

    small = lambda classes: UperNet(classes, **SMALL)  # noqa: E731
    monkeypatch.setattr(convert_upernet, "UperNet", small)
    model, files = small(7), []
    for part in ("encoder", "decoder"):
        state = getattr(model, part).state_dict()
        files.append(tmp_path / f"{part}.pth")
        torch.save({key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}, files[-1])
    convert_upernet.convert(*files, tmp_path / "upernet.safetensors")
    tensors, _ = read_tensors(tmp_path / "upernet.safetensors")
    model.load_state_dict(tensors)
    with pytest.raises(SystemExit, match="not UperNet-101"):
        convert_upernet.convert(files[0], files[0], tmp_path / "wrong.safetensors")


def test_inception_is_read_from_safetensors_and_sees_what_torch_fidelity_sees(tmp_path: Path, monkeypatch):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Inception

    from delora_eval.maps.features import load_features
    from delora_sd.files.tensors import write_tensors

    with monkeypatch.context() as patch, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        patch.setattr(Inception, "load_state_dict", lambda self, state: None)
        patch.setattr(torch, "load", lambda *_, **__: {})
        theirs = Inception("inception", ["2048"], feature_extractor_weights_path="none")
    file = tmp_path / "inception.safetensors"
    write_tensors(file, theirs.state_dict(), {})
    name, look = load_features(MapJudgeConfig(inception=str(file), device="cpu"), "segformer-b4")
    images = [Image.fromarray(np.random.default_rng(i).integers(0, 255, (64, 64, 3), dtype=np.uint8)) for i in range(2)]
    expected = theirs(torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2))[0]
    assert name.startswith("Inception") and np.array_equal(look(images), expected.double().numpy())
    write_tensors(file, {"a": torch.zeros(1)}, {})
    with pytest.raises(UserError, match="not the weights of FID's Inception"):
        load_features(MapJudgeConfig(inception=str(file)), "segformer-b4")
    assert load_features(MapJudgeConfig(), "segformer-b4") is None, "no Inception, no distances"
