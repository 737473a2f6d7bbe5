"""The renderer is a function of its seed, its subjects are disjoint from pretraining, and it speaks the benchmark."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import delora_sd.data
from delora_sd.config.load import read_yaml
from delora_sd.miniature import SUBJECTS_FOLDER
from delora_sd.miniature.build.data import dataset as dataset_module
from delora_sd.miniature.build.data.dataset import TRAIN_SEED, load_shards, render_group, render_shards
from delora_sd.miniature.build.data.subjects import (
    SHIPPED_SEED,
    SUBJECT_CLASSES,
    png_bytes,
    subject_identities,
    subject_scenes,
)
from delora_sd.miniature.world.captions import IDENTIFIERS, STRANGE_WORDS, caption_of, plain_caption, vocabulary
from delora_sd.miniature.world.places.contexts import CONTEXTS
from delora_sd.miniature.world.render import SIZE_PX, picture_and_caption, render, scene_from_seed
from delora_sd.miniature.world.things.identity import CLASS_WORDS, LIVE_CLASSES, draw_identity
from delora_sd.miniature.world.things.outfits import OUTFITS
from delora_sd.miniature.world.things.scene import FINISHES, place_subject


def test_a_seed_always_gives_the_same_picture_and_caption():
    first, caption = picture_and_caption(7)
    again, same_caption = picture_and_caption(7)
    assert first.tobytes() == again.tobytes() and caption == same_caption
    assert picture_and_caption(8)[0].tobytes() != first.tobytes()


def test_pixels_do_not_depend_on_the_order_of_rendering():
    scenes = [scene_from_seed(seed, held_out=False) for seed in (3, 4)]
    forward = [render(scene).tobytes() for scene in scenes]
    backward = [render(scene).tobytes() for scene in reversed(scenes)]
    assert forward == backward[::-1]


@pytest.mark.parametrize("class_word", CLASS_WORDS)
def test_the_subject_fills_half_to_most_of_the_height(class_word):
    rng = np.random.default_rng(0)
    identity = draw_identity(rng, held_out=False, class_word=class_word)
    scene = place_subject(rng, identity, place=None)
    far = replace(scene, pose=replace(scene.pose, x=9.0))
    changed = np.abs(np.asarray(render(scene), dtype=int) - np.asarray(render(far), dtype=int)).max(2) > 24
    rows = np.flatnonzero(changed.any(1))
    wanted = 0.4 if class_word == "glasses" else 0.5
    assert wanted <= (rows[-1] - rows[0] + 1) / SIZE_PX <= 0.95


@pytest.mark.parametrize("class_word", CLASS_WORDS)
def test_every_context_and_finish_changes_the_picture(class_word):
    rng = np.random.default_rng(1)
    identity = draw_identity(rng, held_out=False, class_word=class_word)
    plain = place_subject(rng, identity, place=None)
    scenes = [replace(plain, place=place) for place in CONTEXTS] + [replace(plain, finish=name) for name in FINISHES]
    if class_word in LIVE_CLASSES:
        scenes += [replace(plain, outfit=name) for name in OUTFITS]
    pictures = {hashlib.sha256(render(scene).tobytes()).hexdigest() for scene in [plain, *scenes]}
    assert len(pictures) == len(scenes) + 1


def test_subjects_are_unknown_to_pretraining():
    identities = list(subject_identities(SHIPPED_SEED).values())
    assert all(identity.is_held_out for identity in identities)
    assert len({identity.key for identity in identities}) == len(SUBJECT_CLASSES) == 30
    trained = {
        record.identity
        for seed in range(TRAIN_SEED, TRAIN_SEED + 30)
        for record in render_group(seed, held_out=False)[1]
    }
    assert not trained & {identity.key for identity in identities}
    assert not any(scene_from_seed(seed, held_out=False).identity.is_held_out for seed in range(300))


def test_shipped_subjects_are_what_their_seed_renders():
    lines = (SUBJECTS_FOLDER / "classes.csv").read_text().splitlines()
    assert lines[0] == "subject_name,class" and dict(line.split(",") for line in lines[1:]) == SUBJECT_CLASSES
    for name in ("dog", "vase", "rc_car"):
        scenes = subject_scenes(name, subject_identities(SHIPPED_SEED)[name], SHIPPED_SEED)
        files = sorted((SUBJECTS_FOLDER / name).glob("*.png"))
        assert 4 <= len(files) == len(scenes) <= 6
        assert [file.read_bytes() for file in files] == [png_bytes(render(scene)) for scene in scenes]


def test_captions_never_contain_an_identifier_and_stay_in_the_vocabulary():
    words = set()
    for seed in range(400):
        words |= set(picture_and_caption_words(seed))
    assert not words & set(IDENTIFIERS)
    assert words & set(STRANGE_WORDS)
    assert words <= set(vocabulary())


def picture_and_caption_words(seed: int) -> list[str]:
    return caption_of(scene_from_seed(seed, held_out=False), np.random.default_rng(seed)).lower().split()


def test_every_benchmark_prompt_is_a_caption_of_the_world():
    templates = benchmark_templates()
    phrases = {f"a {{}} {context.phrase}" for context in CONTEXTS.values()}
    phrases |= {f"a {{}} {phrase}" for phrase, _ in OUTFITS.values()}
    phrases |= {f"a {word} {{}}" for word in ("red", "purple", *FINISHES)}
    assert templates == phrases


def benchmark_templates() -> set[str]:
    lists = read_yaml(Path(delora_sd.data.__path__[0]) / "dreambooth.yaml")["prompts"]
    texts = {text for prompts in (lists["object"], lists["live"]) for text in prompts}
    return {text.replace("{identifier} ", "").replace("{class_word}", "{}") for text in texts}


def test_plain_caption_tells_place_outfit_and_finish_only():
    rng = np.random.default_rng(2)
    identity = draw_identity(rng, held_out=False, class_word="dog")
    assert plain_caption(place_subject(rng, identity, place="snow")) == "a dog in the snow"
    assert plain_caption(place_subject(rng, identity, place=None, finish="wet")) == "a wet dog"
    assert plain_caption(place_subject(rng, identity, place=None, outfit="chef")) == "a dog in a chef outfit"


def test_shards_are_written_once_and_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_module, "GROUPS_PER_SHARD", 2)
    dataset_module._write_shard((tmp_path, 0))
    said = []
    render_shards(tmp_path, 2, workers=1, say=said.append)
    pictures = load_shards(tmp_path, 2)
    assert said == [] and pictures.pixels.shape == (8, SIZE_PX, SIZE_PX, 3)
    assert len({record.identity for record in pictures.records}) == 2
