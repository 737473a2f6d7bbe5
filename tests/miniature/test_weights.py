"""The shipped weights load offline, draw pictures in seconds, and the judges know what they look at."""

import json

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from delora_sd.miniature import BASE_FOLDER, JUDGES, WEIGHTS_FOLDER
from delora_sd.miniature.build.data.dataset import TEST_SEED, render_pictures
from delora_sd.miniature.build.data.subjects import SUBJECT_CLASSES
from delora_sd.miniature.build.gates import measure
from delora_sd.miniature.build.train.unet import sample
from delora_sd.miniature.judges import load_mini_clip, load_mini_dino
from delora_sd.miniature.text import learn_merges
from delora_sd.miniature.world.captions import IDENTIFIERS, vocabulary

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    loaded = StableDiffusionPipeline.from_pretrained(BASE_FOLDER, dtype=torch.float32, local_files_only=True)
    loaded.scheduler = DPMSolverMultistepScheduler.from_config(loaded.scheduler.config)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="module")
def real():
    return render_pictures(TEST_SEED + 50_000, 30, held_out=True)


def test_weights_are_safetensors_in_half_precision_and_small():
    files = [file for file in WEIGHTS_FOLDER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 30 * MIB
    assert not [file for file in files if file.suffix in (".bin", ".pt", ".ckpt", ".pkl")]
    tensors = [tensor for file in files if file.suffix == ".safetensors" for tensor in load_file(file).values()]
    assert len(tensors) > 100 and {tensor.dtype for tensor in tensors if tensor.is_floating_point()} == {torch.float16}
    assert json.loads((BASE_FOLDER / "model_index.json").read_text())["safety_checker"] == [None, None]


def test_every_word_is_one_token_and_the_longest_prompt_fits():
    tokenizer = CLIPTokenizer.from_pretrained(BASE_FOLDER / "tokenizer")
    assert all(len(tokenizer(word).input_ids) == 3 for word in (*vocabulary(), *IDENTIFIERS))
    longest = "a photo of a qwe stuffed animal on top of green grass with sunflowers around it"
    assert len(tokenizer(longest).input_ids) == 18 <= tokenizer.model_max_length
    strange = tokenizer("a zebra, 7 times!").input_ids
    assert tokenizer.unk_token_id not in strange[1:-1]


def test_merges_make_each_word_whole_even_when_words_overlap():
    merges = learn_merges(["it", "with", "white", "hit"])
    wholes = {"".join(pair) for pair in merges}
    assert {"it</w>", "with</w>", "white</w>", "hit</w>"} <= wholes


def test_identifier_embeddings_look_like_those_of_trained_words(pipeline):
    table = pipeline.text_encoder.get_input_embeddings().weight
    rows = pipeline.tokenizer.convert_tokens_to_ids([word + "</w>" for word in IDENTIFIERS])
    words = pipeline.tokenizer.convert_tokens_to_ids(["dog</w>", "cat</w>", "snow</w>", "red</w>", "zwx</w>"])
    ratio = table[rows].norm(dim=1).mean() / table[words].norm(dim=1).mean()
    assert 0.4 < ratio < 1.6


def test_base_model_draws_the_place_it_is_told(pipeline):
    clip = load_mini_clip(JUDGES["mini-clip"])
    places = ["beach", "sunflowers", "water", "wooden_floor"]
    classes = ["dog", "backpack", "vase", "clock"]
    prompts = ["a dog on the beach", "a backpack on top of green grass with sunflowers around it"]
    prompts += ["a vase floating on top of water", "a clock on top of a wooden floor"]
    pixels = sample(pipeline, prompts, seed=0, steps=12, guidance=3.0)
    assert pixels.shape == (4, 64, 64, 3)
    _, placed = measure.class_and_context_right(clip, pixels, classes, places)
    assert placed >= 0.75


def test_a_sample_depends_on_its_own_seed_not_on_its_batch(pipeline):
    pair = sample(pipeline, ["a cat in the snow", "a red vase"], seed=3, steps=4)
    alone = sample(pipeline, ["a red vase"], seed=4, steps=4)
    assert np.abs(pair[1].astype(int) - alone[0].astype(int)).max() <= 2


def test_mini_clip_reads_class_and_context_of_real_pictures(real):
    gates = measure.clip_gates(load_mini_clip(JUDGES["mini-clip"]), real)
    assert all(gate.value >= 0.9 for gate in gates), gates


def test_mini_dino_finds_unseen_identities_through_the_autoencoder(pipeline, real):
    found, difference, _, same, lookalike = measure.dino_gates(load_mini_dino(JUDGES["mini-dino"]), pipeline.vae, real)
    assert found.value >= 0.9 and difference.value <= 0.08
    assert same.value - lookalike.value >= 0.2


def test_autoencoder_keeps_hues(pipeline, real):
    psnr, hue = measure.vae_gates(pipeline.vae, real)
    assert psnr.value >= 26 and hue.value >= 0.9


def test_hue_measure_sees_an_orange_dot_turn_grey():
    orange = np.full((1, 8, 8, 3), (246, 138, 36), dtype=np.uint8)
    grey = np.full((1, 8, 8, 3), (120, 140, 160), dtype=np.uint8)
    assert measure.hue_kept(orange, orange) == 1.0 and measure.hue_kept(orange, grey) == 0.0


def test_all_fifteen_classes_have_a_subject():
    assert len(set(SUBJECT_CLASSES.values())) == 15


def test_no_config_names_the_folder_its_weights_came_from():
    configs = list(BASE_FOLDER.glob("*/config.json"))
    assert configs and not [file for file in configs if "_name_or_path" in json.loads(file.read_text())]
