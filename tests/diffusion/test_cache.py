"""Cached text embeddings and latents equal what the parts give when asked directly."""

from pathlib import Path

import pytest
import torch

from delora_sd.data.photos import load_square, stack_squares
from delora_sd.diffusion.bases import find_base
from delora_sd.diffusion.cache import PHOTO_BATCH, cache_folder, encode_photos
from delora_sd.diffusion.parts import load_vae
from delora_sd.diffusion.text.clip import encode_prompts, load_text_encoder
from delora_sd.settings import ModelConfig

CPU = {"device": "cpu", "dtype": torch.float32}


@pytest.fixture(scope="module")
def base(tiny_sd: Path):
    return find_base(ModelConfig(base=str(tiny_sd)))


@pytest.fixture(scope="module")
def text_parts(base):
    """(tokenizer, text encoder)."""
    return load_text_encoder(base, **CPU)


def test_embeddings_are_the_pipelines(tiny_sd: Path, text_parts):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(str(tiny_sd), use_safetensors=True)
    theirs, negative = pipeline.encode_prompt("a photo of qwe dog", "cpu", 1, True, negative_prompt="")
    ours = encode_prompts(["a photo of qwe dog", ""], *text_parts)
    torch.testing.assert_close(ours, torch.cat([theirs, negative]))


def test_embeddings_do_not_depend_on_the_batch(text_parts):
    texts = [f"a photo of qwe dog number {i}" for i in range(70)]
    torch.testing.assert_close(encode_prompts(texts, *text_parts)[66:67], encode_prompts(texts[66:67], *text_parts))


def test_long_prompt_warns_with_what_is_cut(text_parts):
    with pytest.warns(UserWarning, match=r"has 10005 tokens, the model reads 75; not seen: '[x ]*\.\.\.'"):
        embeddings = encode_prompts(["a dog" + " x" * 10_001], *text_parts)
    assert embeddings.shape == (1, 77, 24)


def test_latents_are_the_posterior_times_the_scaling_factor(base, photo_folder: Path):
    vae = load_vae(base, **CPU)
    images, _ = stack_squares([load_square(path, base.size_px) for path in sorted(photo_folder.iterdir())])
    images = torch.cat([images, images.flip(3)])[: PHOTO_BATCH + 1]
    stats = encode_photos(images, vae, base.family)
    posterior = vae.encode(images).latent_dist
    assert stats.mean.shape == (PHOTO_BATCH + 1, 4, 16, 16) and stats.mean.dtype == torch.float32
    torch.testing.assert_close(stats.mean, posterior.mean * 0.5)
    torch.testing.assert_close(stats.std, posterior.std * 0.5)


def test_cache_folder_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("DELORA_SD_CACHE", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("DELORA_SD_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "delora_sd"
