"""Training on maps: the house's loop, its resume and its packs, with an encoder beside every adapter."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from delora_sd.cli.main import main, parse
from delora_sd.config.load import load_config
from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder
from delora_sd.maps.dataset import find_map_set
from delora_sd.maps.door import check_map_config, num_steps
from delora_sd.maps.recipe import train_map_pack, train_maps
from delora_sd.maps.settings import MapTrainConfig
from delora_sd.maps.store import square_labels

ENCODER = "control/control_encoder.safetensors"


def settings(common: list[str], *more: str) -> MapTrainConfig:
    return load_config(MapTrainConfig, [], [*common, *more])


def tensors(run: Path) -> dict[str, torch.Tensor]:
    (adapter,) = (run / "adapter").glob("*.safetensors")
    return load_file(run / ENCODER) | load_file(adapter)


def are_equal(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_holds_encoder_palette_adapter_and_what_it_was_made_from(map_run: Path):
    manifest = json.loads((map_run / "manifest.json").read_text())
    encoder = load_file(map_run / ENCODER)
    assert encoder["conv_out.weight"].abs().sum() > 0, "the last convolution starts at zero and was trained"
    assert manifest["finished_step"] == 4 and manifest["maps"]["pairs"] == 4 and manifest["maps"]["classes"] == 34
    assert manifest["control_parameters"] == sum(value.numel() for value in encoder.values())
    assert manifest["trainable_parameters"] > manifest["control_parameters"]
    assert (map_run / "control" / "palette.csv").exists()


def test_resumed_training_ends_in_the_same_bits(common: list[str], map_run: Path, tmp_path: Path):
    train_maps(settings(common, f"output_dir={tmp_path / 'run'}", "training.num_steps=2"))
    train_maps(settings(common, f"output_dir={tmp_path / 'run'}"))
    assert are_equal(tensors(map_run), tensors(tmp_path / "run"))
    assert (map_run / "events.jsonl").read_text().count('"loss"') == 4


def test_a_pack_of_two_equals_two_runs_of_one(common: list[str], map_run: Path, tmp_path: Path):
    other = settings(common, f"output_dir={tmp_path / 'b'}", "optimizer.lr=3e-3", "seed=7")
    train_map_pack([settings(common, f"output_dir={tmp_path / 'a'}"), other])
    packed = tensors(tmp_path / "b")
    train_maps(settings(common, f"output_dir={tmp_path / 'alone'}", "optimizer.lr=3e-3", "seed=7"))
    for run, alone in ((tensors(tmp_path / "a"), tensors(map_run)), (packed, tensors(tmp_path / "alone"))):
        for name, value in alone.items():
            torch.testing.assert_close(run[name], value, rtol=2e-3, atol=2e-5)


def test_a_frozen_encoder_stays_what_it_was_and_an_encoder_alone_has_no_adapter(common: list[str], tmp_path: Path):
    frozen = train_maps(settings(common, f"output_dir={tmp_path / 'frozen'}", "control.trained=false"))
    assert not load_file(frozen.path / ENCODER)["conv_out.weight"].any()
    alone = train_maps(settings(common, f"output_dir={tmp_path / 'alone'}", "control.alone=true"))
    assert load_file(alone.path / ENCODER)["conv_out.weight"].any() and not alone.adapter.exists()
    manifest = alone.read_manifest()
    assert manifest["trainable_parameters"] == manifest["control_parameters"]


def test_a_controlnet_folder_is_where_training_starts(common: list[str], tiny_sd: Path, tmp_path: Path):
    from diffusers import ControlNetModel, UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(tiny_sd / "unet", use_safetensors=True, local_files_only=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32))
    torch.nn.init.normal_(controlnet.controlnet_cond_embedding.conv_out.weight, std=0.02)
    controlnet.save_pretrained(tmp_path / "controlnet")
    given = ["control.encoder=pretrained", f"control.checkpoint={tmp_path / 'controlnet'}", "training.num_steps=1"]
    theirs = controlnet.controlnet_cond_embedding.state_dict()
    for is_trained in (False, True):
        more = [f"output_dir={tmp_path / str(is_trained)}", f"control.trained={is_trained}"]
        ours = load_file(train_maps(settings(common, *given, *more)).path / ENCODER)
        assert ours.keys() == theirs.keys() and are_equal(ours, theirs) is not is_trained


def test_the_encoders_rate_is_capped_and_the_adapters_is_not(common: list[str], tmp_path: Path):
    steps = ["training.num_steps=1", "optimizer.weight_decay=0"]
    run = train_maps(settings(common, f"output_dir={tmp_path / 'capped'}", "control.max_lr=1e-5", *steps))
    moved = load_file(run.path / ENCODER)["conv_out.weight"].abs().max().item()
    assert moved == pytest.approx(1e-5, rel=1e-3), "the first step of AdamW is the rate"
    trained = tensors(run.path)
    assert max(value.abs().max() for name, value in trained.items() if "lora_B" in name) == pytest.approx(
        1e-2, rel=1e-3
    )


def test_epochs_count_whole_batches(common: list[str]):
    config = settings(common, "epochs=3", "training.batch_size=5")
    assert num_steps(config, 4) == 3 and num_steps(config, 20_010) == 12_006
    assert len(find_map_set(config.data, "train").pairs) == 4


def test_other_maps_or_settings_are_no_resume(common: list[str], map_run: Path):
    with pytest.raises(UserError, match=r"begun with control.max_lr=0.01, now it is 0.1"):
        train_maps(settings(common, f"output_dir={map_run}", "control.max_lr=0.1"))
    with pytest.raises(UserError, match=r"begun with training.num_steps=4, now it is 2"):
        train_maps(settings(common, f"output_dir={map_run}", "training.num_steps=2"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["training.prior_weight=1"], "neither class images nor masks"),
        (["control.alone=true", "control.trained=false"], "nothing would train"),
        (["adapter.method=full"], "trains the UNet"),
        (["epochs=0"], "at least 1"),
        (["optimizer.angular=true", "adapter.method=delora"], "not with maps"),
        (["data.workers=0"], "at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_the_door(common: list[str], given: list[str], words: str):
    with pytest.raises(UserError, match=words):
        check_map_config(settings(common, "output_dir=x", *given))


def test_runs_over_other_maps_do_not_share_a_pack(common: list[str], tmp_path: Path):
    pair = [settings(common, f"output_dir={tmp_path / str(limit)}", f"data.limit={limit}") for limit in (1, 2)]
    with pytest.raises(UserError, match=r"data.limit: 1 and 2 cannot train in one pack"):
        train_map_pack(pair)


def test_square_labels_are_never_mixtures():
    labels = np.random.default_rng(0).integers(1, 150, (40, 60)).astype(np.uint8)
    for geometry, source in (("squash", labels), ("crop", labels[:, 10:50])):
        square = square_labels(labels, 16, geometry)
        assert square.shape == (16, 16) and set(np.unique(square)) <= set(np.unique(source))
    assert (square_labels(labels[:, 10:50], 40, "crop") == labels[:, 10:50]).all()


def test_the_dry_run_says_parameters_disk_and_hours(capsys, common: list[str]):
    from delora_sd.cli.commands import COMMANDS

    COMMANDS["train-maps"].dry_run(parse(COMMANDS["train-maps"], [*common, "output_dir=x"]))
    printed = capsys.readouterr().out
    for words in ("pairs: 4", "control encoder:", "16,281,968", "of latents, labels and embeddings", "h on an H200"):
        assert words in printed


def test_a_run_on_maps_says_what_it_needs_to_draw(map_run: Path, capsys):
    assert main(["generate", str(map_run), "prompts=a dog"]) == 2
    assert "give maps=FOLDER" in capsys.readouterr().err
    assert RunFolder(map_run).images.exists() is False
