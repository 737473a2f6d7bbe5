"""SDXL: its integers, its text and sizes as diffusers' pipeline computes them, its loss, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, StableDiffusionXLPipeline

from delora_sd.cli.main import main
from delora_sd.data.photos import load_square
from delora_sd.diffusion.bases import find_base
from delora_sd.diffusion.cache import embed_texts, stack_conditions
from delora_sd.diffusion.families.sdxl import SDXL
from delora_sd.diffusion.parts import load_denoiser, load_text, load_vae
from delora_sd.errors import UserError
from delora_sd.generation.model import load_model
from delora_sd.generation.requests import SamplingSettings
from delora_sd.generation.sampler import sample_images
from delora_sd.settings import ModelConfig, TrainingConfig
from delora_sd.training.loop.batches import Batch
from delora_sd.training.loop.objective import pack_losses
from make_tiny_sdxl import write_tiny_sdxl

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}
TEXTS = ["a photo of qwe dog", ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> StableDiffusionXLPipeline:
    loaded = StableDiffusionXLPipeline.from_pretrained(str(folder), use_safetensors=True, add_watermarker=False)
    loaded.scheduler = DPMSolverMultistepScheduler.from_config(loaded.scheduler.config)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture
def model_copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "model"))


def _edit(file: Path, **changes) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_the_table_of_methods_prints_sdxls_integers(capsys: pytest.CaptureFixture):
    assert main(["methods", "model.base=sdxl-architecture"]) == 0
    printed = capsys.readouterr().out
    assert "23,224,320" in printed, "LoRA r 16"
    assert f"{23_224_320 + 560:,}" in printed, "DeLoRA: one boundary a layer more"


def test_the_architecture_has_sdxls_sizes():
    base = find_base(ModelConfig(base="sdxl-architecture"))
    assert (base.size_px, base.latent_side, base.version, base.folder) == (1024, 128, "sdxl", None)
    unet = load_denoiser(base, device="meta", dtype=torch.float32)
    assert sum(p.numel() for p in unet.parameters()) == 2_567_463_684
    ends = tuple(f".{name}" for name in SDXL.default_layers)
    assert sum(name.endswith(ends) for name, _ in unet.named_modules()) == 560
    text = load_text(base, device="meta", dtype=torch.float32)
    assert sum(p.numel() for p in text.encoder.parameters()) == 123_060_480
    assert sum(p.numel() for p in text.encoder_2.parameters()) == 694_659_840


def test_kohyas_names_are_those_of_sd_scripts_and_comfyui():
    """Stability's blocks: two transformers of depth 2 and two of depth 10 on the way in, one in the middle, six out."""
    unet = load_denoiser(find_base(ModelConfig(base="sdxl-architecture")), device="meta", dtype=torch.float32)
    ends = tuple(f".{name}" for name in SDXL.default_layers)
    keys = [SDXL.export.kohya_key(name) for name, _ in unet.named_modules() if name.endswith(ends)]
    depths = {f"input_blocks_{i}_1": depth for i, depth in ((4, 2), (5, 2), (7, 10), (8, 10))} | {"middle_block_1": 10}
    depths |= {f"output_blocks_{i}_1": depth for i, depth in enumerate((10, 10, 10, 2, 2, 2))}
    expected = {
        f"lora_unet_{block}_transformer_blocks_{i}_{attention}_{projection}"
        for block, depth in depths.items()
        for i in range(depth)
        for attention in ("attn1", "attn2")
        for projection in ("to_q", "to_k", "to_v", "to_out_0")
    }
    assert set(keys) == expected and len(keys) == 560


def test_conditions_are_the_pipelines(folder: Path, pipeline: StableDiffusionXLPipeline):
    tokens, no_tokens, pooled, no_pooled = pipeline.encode_prompt(TEXTS[0], device="cpu", negative_prompt=None)
    ours = embed_texts(find_base(ModelConfig(base=str(folder))), TEXTS, **CPU)
    torch.testing.assert_close(ours[TEXTS[0]], {"tokens": tokens[0], "pooled": pooled[0]})
    torch.testing.assert_close(ours[""], {"tokens": no_tokens[0], "pooled": no_pooled[0]})


def test_image_is_that_of_diffusers_own_pipeline(folder: Path, pipeline: StableDiffusionXLPipeline):
    theirs = pipeline(
        TEXTS[0],
        num_inference_steps=4,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(9),
        output_type="np",
    ).images[0]
    base = find_base(ModelConfig(base=str(folder)))
    sampling = SamplingSettings(num_inference_steps=4, guidance=5.0, negative_prompt="", size_px=32)
    (ours,) = sample_images(load_model(base, **CPU).sampler(TEXTS[:1], sampling), TEXTS[:1], [9])
    assert np.abs(np.asarray(ours, dtype=np.float32) - (theirs * 255).round()).max() <= 1


class Predicting(torch.nn.Module):
    """The denoiser as training calls it, without adapters."""

    def __init__(self, unet: torch.nn.Module):
        super().__init__()
        self.unet = unet

    def forward(self, noisy: torch.Tensor, times: torch.Tensor, conditions: dict) -> torch.Tensor:
        return SDXL.predict(self.unet, noisy, times, conditions)


def test_loss_is_that_of_ten_plain_lines(folder: Path):
    """As diffusers' train_dreambooth_lora_sdxl.py computes it, two photos and two class images."""
    base = find_base(ModelConfig(base=str(folder)))
    unet = load_denoiser(base, **CPU)
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 4, 4, 16, 16, generator=generator)
    times = torch.tensor([3, 500, 999, 20])
    captions = embed_texts(base, [*TEXTS, "a dog", "a photo"], **CPU)
    sizes = torch.tensor(
        [[40, 48, 0, 3, 32, 32], [32, 32, 0, 0, 32, 32], [64, 48, 5, 0, 32, 32], [32, 48, 0, 8, 32, 32]]
    )
    conditions = stack_conditions(list(captions.values()), sizes)
    batch = Batch(latents=latents, noise=noise, times=times, conditions=conditions)

    objective = SDXL.objective(base, TrainingConfig(), CPU["device"])
    ours = pack_losses(Predicting(unet), batch, objective=objective, prior_weights=torch.tensor([0.7]))

    noisy = DDPMScheduler.from_pretrained(folder, subfolder="scheduler").add_noise(latents, noise, times)
    tokens = torch.stack([caption["tokens"] for caption in captions.values()])
    pooled = torch.stack([caption["pooled"] for caption in captions.values()])
    added = {"time_ids": sizes.float(), "text_embeds": pooled}
    with torch.no_grad():
        prediction = unet(noisy, times, tokens, added_cond_kwargs=added).sample
    instance, prior = (prediction - noise).square().chunk(2)
    torch.testing.assert_close(ours[0], instance.mean().view(1))
    torch.testing.assert_close(ours[1], 0.7 * prior.mean().view(1))


def test_the_unet_hears_the_size_of_each_photo(folder: Path):
    unet = load_denoiser(find_base(ModelConfig(base=str(folder))), **CPU)
    latents, times = torch.zeros(1, 4, 16, 16), torch.tensor(5)
    condition = {"tokens": torch.zeros(1, 77, 56), "pooled": torch.zeros(1, 20)}
    whole, cropped = torch.tensor([[32, 32, 0, 0, 32, 32]]), torch.tensor([[32, 32, 0, 16, 32, 32]])
    with torch.no_grad():
        first, second = (SDXL.predict(unet, latents, times, condition | {"sizes": size}) for size in (whole, cropped))
    assert not torch.equal(first, second)


def test_sizes_are_of_the_photo_as_people_see_it(photo_folder: Path, tmp_path: Path):
    from PIL import Image

    wide = next(iter(sorted(photo_folder.iterdir())))  # 48 x 40
    on_its_side = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[274] = 6
    Image.open(wide).save(on_its_side, exif=exif)
    seen = [load_square(file, 20).shows for file in (wide, on_its_side)]
    assert seen == [(40, 48, 0, 2, 20, 20), (48, 40, 2, 0, 20, 20)]


@pytest.mark.parametrize(("force_upcast", "dtype"), [(True, torch.float32), (False, torch.float16)])
def test_a_vae_that_overflows_in_fp16_computes_in_fp32(force_upcast: bool, dtype: torch.dtype, model_copy: Path):
    _edit(model_copy / "vae" / "config.json", force_upcast=force_upcast)
    vae = load_vae(find_base(ModelConfig(base=str(model_copy))), device="cpu", dtype=torch.float16)
    assert vae.dtype == dtype


def _refiner(folder: Path) -> None:
    _edit(folder / "model_index.json", requires_aesthetics_score=True)
    shutil.rmtree(folder / "text_encoder")


def _inpainting(folder: Path) -> None:
    _edit(folder / "unet" / "config.json", in_channels=9)


def _no_second_encoder(folder: Path) -> None:
    shutil.rmtree(folder / "text_encoder_2")


def _newer_vae(folder: Path) -> None:
    _edit(folder / "vae" / "config.json", _class_name="AutoencoderKLOfTomorrow")


def _unknown_denoiser(folder: Path) -> None:
    shutil.move(folder / "unet", folder / "transformer")
    _edit(folder / "transformer" / "config.json", _class_name="PixArtTransformer2DModel")
    _edit(folder / "model_index.json", _class_name="PixArtSigmaPipeline")


def _wrong_second_encoder(folder: Path) -> None:
    shutil.rmtree(folder / "text_encoder_2")
    shutil.copytree(folder / "text_encoder", folder / "text_encoder_2")


REFUSED = {
    "refiner": (_refiner, "refiner polishes the last steps"),
    "inpainting": (_inpainting, "takes 9 channels, the VAE gives 4"),
    "no second text encoder": (_no_second_encoder, r"no text_encoder_2/ in .*expected a diffusers folder"),
    "a class of tomorrow": (_newer_vae, r"vae: its class is AutoencoderKLOfTomorrow, SDXL has AutoencoderKL.*newer"),
    "another family": (_unknown_denoiser, r"not known \(PixArtSigmaPipeline\); those known: .*SDXL"),
    "two encoders that do not fit": (_wrong_second_encoder, r"width 56, the two text encoders give 24 \+ 24"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_at_the_door(name: str, model_copy: Path):
    damage, message = REFUSED[name]
    damage(model_copy)
    with pytest.raises(UserError, match=message):
        find_base(ModelConfig(base=str(model_copy)))


def test_512_px_of_sdxl_is_warned_of():
    with pytest.warns(UserWarning, match=r"model\.size_px=512: SDXL draws poorly below 768 px"):
        assert find_base(ModelConfig(base="sdxl-architecture", size_px=512)).size_px == 512
