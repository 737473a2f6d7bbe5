"""FLUX.2 and Z-Image beside diffusers' own pipelines: the same prompt and noise give the same image and loss."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from delora_sd.diffusion.bases import find_base
from delora_sd.diffusion.cache import embed_texts
from delora_sd.diffusion.families import flux2, zimage
from delora_sd.diffusion.families.family import Base
from delora_sd.diffusion.parts import load_denoiser, load_vae
from delora_sd.errors import UserError
from delora_sd.generation.requests import SamplingSettings
from delora_sd.generation.sampler import Sampler, initial_latents, sample_images
from delora_sd.settings import ModelConfig, TrainingConfig

FP32 = {"device": torch.device("cpu"), "dtype": torch.float32}
TEXTS = ["a dog", "a small cat on the moon"]
"""Of different lengths: captions of their own length are padded, batches are not."""
NUM_STEPS = 3


@pytest.fixture(scope="module", params=["flux2", "zimage"])
def folder(request: pytest.FixtureRequest, tiny_flux2: Path, tiny_zimage: Path) -> Path:
    return {"flux2": tiny_flux2, "zimage": tiny_zimage}[request.param]


def base_of(folder: Path, **settings) -> Base:
    return find_base(ModelConfig(base=str(folder), **settings))


def drawn(base: Base, texts: list[str], *, guidance: float, negative: str = "") -> np.ndarray:
    sampling = SamplingSettings(
        num_inference_steps=NUM_STEPS, guidance=guidance, negative_prompt=negative, size_px=base.size_px
    )
    sampler = Sampler(
        base=base,
        denoiser=load_denoiser(base, **FP32),
        vae=load_vae(base, **FP32),
        conditions=embed_texts(base, [*texts, negative], **FP32),
        sampling=sampling,
    )
    return np.stack([np.asarray(image) for image in sample_images(sampler, texts, list(range(len(texts))))])


def pipelines_images(folder: Path, base: Base, *, guidance: float) -> np.ndarray:
    """diffusers' own pipeline on our noise."""
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    noise = initial_latents([0, 1], (base.latent_channels, base.latent_side, base.latent_side))
    common = {
        "prompt": list(TEXTS), "num_inference_steps": NUM_STEPS, "height": base.size_px, "width": base.size_px,
        "max_sequence_length": base.num_text_tokens, "output_type": "np", "latents": noise,
    }  # fmt: skip
    if base.family.name == "flux2":
        layers = flux2.text_layers(base.configs["text_encoder"])
        images = pipeline(**common, guidance_scale=guidance, text_encoder_out_layers=layers).images
    else:  # its guidance counts from the prompt's answer, not from the empty one's
        images = pipeline(**common, guidance_scale=guidance - 1).images
    return (images * 255).round().astype(np.uint8)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_we_draw_what_diffusers_pipeline_draws(folder: Path, guidance: float):
    """Text layers, thinking, positions, statistics, shift, guidance, sign and clock: all of them, or this differs."""
    base = base_of(folder)
    ours, theirs = drawn(base, TEXTS, guidance=guidance), pipelines_images(folder, base, guidance=guidance)
    difference = np.abs(ours.astype(int) - theirs.astype(int))
    assert difference.max() <= 2 and difference.mean() < 0.1
    assert ours.std() > 5, "a flat image would agree with anything"


def test_an_image_does_not_depend_on_its_batch(folder: Path):
    """A batch of two draws what two batches of one draw: nothing is multiplied, padded or normalised across it."""
    base = base_of(folder)
    together, alone = drawn(base, TEXTS, guidance=3.0), drawn(base, TEXTS[:1], guidance=3.0)
    assert np.abs(together[0].astype(int) - alone[0].astype(int)).max() <= 1


def test_encoding_twice_changes_no_condition(folder: Path):
    """The list of prompts is not multiplied or edited in place, whatever was encoded before."""
    base = base_of(folder)
    one, two = embed_texts(base, TEXTS, **FP32), embed_texts(base, [*TEXTS, "more"], **FP32)
    for text in TEXTS:
        assert one[text].keys() == two[text].keys()
        for name, value in one[text].items():
            torch.testing.assert_close(value, two[text][name], rtol=1e-4, atol=1e-5)


def test_latents_come_back_as_the_image(folder: Path):
    """encode, then decode: what the VAE alone makes of it, through normalisation, patches and back."""
    base = base_of(folder)
    vae = load_vae(base, **FP32)
    images = torch.rand(2, 3, base.size_px, base.size_px, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        mean, std = base.family.encode_images(images, vae)
        expected = vae.decode(vae.encode(images).latent_dist.mean).sample
        torch.testing.assert_close(base.family.decode_latents(mean, vae), expected, rtol=1e-4, atol=1e-4)
    assert mean.shape == (2, base.latent_channels, base.latent_side, base.latent_side)
    assert mean.shape == std.shape and (std > 0).all()


def test_flux2_patches_are_the_pipelines(tiny_flux2: Path):
    from diffusers import Flux2KleinPipeline

    latents = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    patches = flux2.patchify(latents)
    assert patches.equal(Flux2KleinPipeline._patchify_latents(latents))
    assert flux2.unpatchify(patches).equal(latents)


def test_positions_are_the_pipelines():
    from diffusers import Flux2KleinPipeline

    image, text = flux2.position_ids(3, 5, 7, torch.device("cpu"))
    assert image.equal(Flux2KleinPipeline._prepare_latent_ids(torch.zeros(2, 4, 3, 5))[0])
    assert text.equal(Flux2KleinPipeline._prepare_text_ids(torch.zeros(2, 7, 9))[0])


def test_the_loss_is_the_plain_readings(folder: Path):
    """Ten lines from the papers beside ours: noise - latents, at the drawn level, weighted sample by sample."""
    base = base_of(folder)
    training = TrainingConfig(sigma_sampling="uniform", sigma_weighting="cosmap")
    objective = base.family.objective(base, training, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 2, base.latent_channels, base.latent_side, base.latent_side, generator=generator)
    sigmas = objective.draw_times(2, generator)
    captions = embed_texts(base, TEXTS, **FP32)
    conditions = {name: torch.stack([captions[text][name] for text in TEXTS]) for name in captions[TEXTS[0]]}
    denoiser = load_denoiser(base, **FP32)
    with torch.no_grad():
        predicted = base.family.predict(denoiser, objective.noisy(latents, noise, sigmas), sigmas, conditions)
        losses = (predicted - objective.target(latents, noise, sigmas)).square().mean((1, 2, 3))
        losses = losses * objective.weights(sigmas)
        expected = torch.stack([plain_loss(base, denoiser, x, e, s, captions[text])
                                for x, e, s, text in zip(latents, noise, sigmas, TEXTS, strict=True)])  # fmt: skip
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)


def plain_loss(base: Base, denoiser, x: Tensor, e: Tensor, s: Tensor, caption: dict[str, Tensor]) -> Tensor:
    """One sample, as the model cards and pipelines say it."""
    noisy = (1 - s) * x + s * e
    if base.family.name == "flux2":
        height, width = x.shape[1:]
        image_ids = torch.tensor([[0, i, j, 0] for i in range(height) for j in range(width)])
        text_ids = torch.tensor([[0, 0, 0, k] for k in range(len(caption["tokens"]))])
        tokens = noisy.flatten(1).T[None]
        v = denoiser(tokens, caption["tokens"][None], s[None], image_ids, text_ids, return_dict=False)[0]
        v = v[0].T.view_as(x)
    else:
        words = caption["tokens"][: int(caption["num_tokens"])]
        v = -denoiser([noisy[:, None]], 1 - s[None], [words], return_dict=False)[0][0][:, 0]
    weight = 2 / (torch.pi * (1 - 2 * s + 2 * s**2))
    return weight * (v - (e - x)).square().mean()


def test_text_layers_can_be_chosen_and_are_told_apart(tiny_flux2: Path):
    own, other = base_of(tiny_flux2), base_of(tiny_flux2, text_layers=(2, 3, 4))
    assert flux2.text_layers(own.configs["text_encoder"]) == (1, 3, 4)
    assert flux2.text_layers(other.configs["text_encoder"]) == (2, 3, 4)
    assert own.fingerprint != other.fingerprint
    one, two = (embed_texts(base, TEXTS, **FP32)[TEXTS[0]]["tokens"] for base in (own, other))
    assert not torch.allclose(one, two)
    third = one.shape[-1] // 3
    torch.testing.assert_close(one[:, third : 2 * third], two[:, third : 2 * third])


def test_kleins_layers_are_9_18_and_27():
    """Not 10, 20 and 30, which are FLUX.2-dev's and what peft's benchmark conditions klein on (diffusers#13445)."""
    base = find_base(ModelConfig(base="flux2-klein-architecture"))
    assert flux2.text_layers(base.configs["text_encoder"]) == (9, 18, 27)


@pytest.mark.parametrize(("size_px", "num_tokens"), [(1024, 4096), (512, 1024)])
def test_the_shift_counts_patches_not_latents(size_px: int, num_tokens: int):
    """Four times too few tokens, or too many, is what other trainers got wrong."""
    klein = find_base(ModelConfig(base="flux2-klein-architecture", size_px=size_px))
    solver = klein.family.solver(klein, 28)
    expected = flux2.EulerSolver(28, flux2.klein_mu(num_tokens, 28), device="cpu")
    assert solver.times.equal(expected.times)
    assert zimage._num_tokens(find_base(ModelConfig(base="zimage-architecture", size_px=size_px))) == num_tokens


def edited(folder: Path, target: Path, file: str, **changes) -> Path:
    shutil.copytree(folder, target)
    config = json.loads((target / file).read_text())
    (target / file).write_text(json.dumps(config | changes))
    return target


@pytest.mark.parametrize(
    ("family", "file", "changes", "said"),
    [
        ("flux2", "transformer/config.json", {"guidance_embeds": True}, "FLUX.2-dev"),
        ("flux2", "transformer/config.json", {"joint_attention_dim": 32}, "text of width 32"),
        ("flux2", "transformer/config.json", {"in_channels": 32}, "channels"),
        ("flux2", "text_encoder/config.json", {"text_encoder_out_layers": [1, 3, 5]}, "text layers"),
        ("flux2", "text_encoder/config.json", {"model_type": "mistral3"}, "mistral3"),
        ("flux2", "scheduler/scheduler_config.json", {"_class_name": "DDIMScheduler"}, "DDIMScheduler"),
        ("zimage", "transformer/config.json", {"siglip_feat_dim": 8}, "Omni"),
        ("zimage", "transformer/config.json", {"cap_feat_dim": 32}, "text of width 32"),
        ("zimage", "scheduler/scheduler_config.json", {"shift_terminal": 0.1}, "shift_terminal"),
    ],
)
def test_members_that_cannot_be_used_are_refused(
    family: str, file: str, changes: dict, said: str, tiny_flux2: Path, tiny_zimage: Path, tmp_path: Path
):
    folder = {"flux2": tiny_flux2, "zimage": tiny_zimage}[family]
    with pytest.raises(UserError, match=said):
        base_of(edited(folder, tmp_path / "base", file, **changes))


def test_a_tokenizer_without_its_template_is_refused(tiny_flux2: Path, tmp_path: Path):
    shutil.copytree(tiny_flux2, tmp_path / "base")
    for file in (tmp_path / "base" / "tokenizer").glob("*"):
        if file.name != "tokenizer.json":
            file.unlink()
    with pytest.raises(UserError, match="chat template"):
        embed_texts(base_of(tmp_path / "base"), TEXTS, **FP32)
