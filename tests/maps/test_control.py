"""The control encoder: its size, its start, where its output goes, and what a ControlNet folder gives."""

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from delora_sd.diffusion.bases import find_base
from delora_sd.diffusion.parts import load_denoiser
from delora_sd.errors import UserError
from delora_sd.maps.encoder import (
    WIDTHS,
    HintPort,
    count_encoder,
    create_encoder,
    encoder_widths,
    load_encoder,
    save_encoder,
)
from delora_sd.maps.estimate import oft_identity
from delora_sd.maps.palette import scene_parse_150
from delora_sd.maps.settings import ControlConfig
from delora_sd.settings import ModelConfig
from make_tiny_sd import UNET

SCRATCH = ControlConfig(encoder="scratch")


@pytest.fixture(scope="module")
def base(tiny_sd):
    return find_base(ModelConfig(base=str(tiny_sd)))


@pytest.fixture(scope="module")
def unet(base):
    return load_denoiser(base, device="cpu", dtype=torch.float32)


@pytest.fixture
def labels():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 151, (2, 32, 32)).astype(np.uint8))


def test_the_hint_block_of_stable_diffusion_has_the_published_size():
    assert count_encoder(WIDTHS, 320) == 1_086_480


def test_ofts_published_count_is_the_sum_of_its_parts():
    assert oft_identity() == {
        "attention": 11_602_368,
        "geglu": 1_542_560,
        "control encoder": 1_086_480,
        "unused time embedding": 2_050_560,
    }
    assert sum(oft_identity().values()) == 16_281_968


def test_a_new_encoder_adds_nothing_and_depends_on_its_seed_alone(base, unet, labels):
    first, again, other = (create_encoder(SCRATCH, scene_parse_150(), base, unet, seed=seed) for seed in (0, 0, 1))
    assert encoder_widths(base) == (16, 32)
    assert not first(labels).any() and first(labels).shape == (2, 16, 16, 16)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.block.conv_in.weight, other.block.conv_in.weight)


def test_a_new_encoder_passes_what_the_map_says_on_to_its_last_convolution():
    base = find_base(ModelConfig(base="sd15-architecture"))
    unet = load_denoiser(base, device="meta", dtype=torch.float32)
    encoder = create_encoder(SCRATCH, scene_parse_150(), base, unet, seed=0)
    encoder.block.conv_out = torch.nn.Identity()
    with torch.no_grad():
        flat = encoder(torch.arange(1, 151, 10, dtype=torch.uint8).view(-1, 1, 1).expand(-1, 64, 64).contiguous())
    of_classes = flat[:, :, 4, 4]
    assert of_classes.std(dim=0).mean() > 0.1, "fifteen classes look different after seven convolutions"


def test_the_hint_is_the_block_of_the_palettes_colours(base, unet, labels):
    encoder = create_encoder(SCRATCH, scene_parse_150(), base, unet, seed=0)
    torch.nn.init.normal_(encoder.block.conv_out.weight, generator=torch.Generator().manual_seed(0))
    pictures = torch.tensor(scene_parse_150().colours[labels.numpy()]).permute(0, 3, 1, 2).float().contiguous() / 255
    assert torch.equal(encoder(labels), encoder.block(pictures))


def test_the_hint_is_added_once_after_the_first_convolution_in_both_branches(unet):
    generator = torch.Generator().manual_seed(0)
    latents, hint = torch.randn(4, 4, 16, 16, generator=generator), torch.randn(2, 16, 16, 16, generator=generator)
    text = torch.randn(4, 3, 24, generator=generator)
    plain = UNet2DConditionModel(**UNET)
    plain.load_state_dict(unet.state_dict())
    bias = plain.conv_in.forward
    plain.conv_in.forward = lambda sample: bias(sample) + torch.cat([hint, hint])
    port = HintPort(unet)
    with torch.no_grad():
        before = unet(latents, 5, text).sample
        port.hint = hint
        hinted, expected = unet(latents, 5, text).sample, plain(latents, 5, text).sample
        port.close()
        assert torch.equal(hinted, expected) and not torch.equal(hinted, before)
        assert torch.equal(unet(latents, 5, text).sample, before)


def test_a_controlnets_hint_block_is_taken_over_whatever_else_is_in_the_folder(base, unet, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        controlnet = ControlNetModel.from_unet(unet, conditioning_channels=3, load_weights_from_unet=False)
        wide = ControlNetModel.from_unet(
            unet, conditioning_embedding_out_channels=(16, 32), load_weights_from_unet=False
        )
    wide.save_pretrained(tmp_path / "fits")
    config = ControlConfig(encoder="pretrained", checkpoint=str(tmp_path / "fits"))
    encoder = create_encoder(config, scene_parse_150(), base, unet, seed=0)
    theirs = wide.controlnet_cond_embedding.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in encoder.block.state_dict().items())
    controlnet.save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="made for another base"):
        create_encoder(ControlConfig(checkpoint=str(tmp_path / "other")), scene_parse_150(), base, unet, seed=0)


def test_a_real_controlnets_config_gives_the_published_encoder(tmp_path):
    """The hint block of lllyasviel/control_v11p_sd15_seg's config, random weights, through the code of every other."""
    from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
    from safetensors.torch import save_file

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        block = ControlNetConditioningEmbedding(320, block_out_channels=(16, 32, 96, 256))
    tensors = {f"controlnet_cond_embedding.{name}": value for name, value in block.state_dict().items()}
    save_file(tensors | {"conv_in.weight": torch.zeros(3)}, tmp_path / "diffusion_pytorch_model.safetensors")
    base = find_base(ModelConfig(base="sd15-architecture"))
    unet = load_denoiser(base, device="meta", dtype=torch.float32)
    encoder = create_encoder(ControlConfig(checkpoint=str(tmp_path)), scene_parse_150(), base, unet, seed=0)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 1_086_480
    assert torch.equal(encoder.block.conv_out.bias, block.conv_out.bias)


def test_folders_without_a_controlnet_are_refused(base, unet, tmp_path):
    from safetensors.torch import save_file

    cases = {
        "gone": "no such folder",
        "empty": "no diffusion_pytorch_model.safetensors",
        "other": "it is no ControlNet",
    }
    for name in ("empty", "other"):
        (tmp_path / name).mkdir()
    save_file({"a": torch.zeros(1)}, tmp_path / "other" / "diffusion_pytorch_model.safetensors")
    for name, words in cases.items():
        with pytest.raises(UserError, match=words):
            create_encoder(ControlConfig(checkpoint=str(tmp_path / name)), scene_parse_150(), base, unet, seed=0)
    (tmp_path / "empty" / "diffusion_pytorch_model.bin").write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match="pickle"):
        create_encoder(ControlConfig(checkpoint=str(tmp_path / "empty")), scene_parse_150(), base, unet, seed=0)


def test_a_saved_encoder_is_read_back_with_its_palette(base, unet, labels, tmp_path):
    encoder = create_encoder(SCRATCH, scene_parse_150(), base, unet, seed=5)
    torch.nn.init.normal_(encoder.block.conv_out.weight, generator=torch.Generator().manual_seed(0))
    save_encoder(encoder, tmp_path / "control")
    read = load_encoder(tmp_path / "control", unet)
    assert torch.equal(read(labels), encoder(labels)) and read.palette.names == scene_parse_150().names
