"""The world's exact label maps, and the segmenter that reads pictures of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from delora_sd.miniature import SEGMENTER_FOLDER
from delora_sd.miniature.build.train.segmenter import TEST_SEED, measure_segmenter, render_scattered
from delora_sd.miniature.segmenter import SEGMENTER_CONFIG, find_labels, load_segmenter
from delora_sd.miniature.world.paint.parts import PARTS
from delora_sd.miniature.world.places.contexts import CONTEXTS
from delora_sd.miniature.world.render import render, render_labelled, scene_from_seed
from delora_sd.miniature.world.things.identity import CLASS_WORDS
from delora_sd.miniature.world.things.labels import LABELS, label_colours, subject_label


def named(labels: np.ndarray) -> set[str]:
    return {LABELS[label - 1] for label in np.unique(labels)}


@pytest.mark.parametrize("place", [None, *CONTEXTS])
def test_every_pixel_of_every_place_has_a_label(place):
    scene = replace(scene_from_seed(3, held_out=False), place=place)
    picture, labels = render_labelled(scene)
    assert labels.shape == (64, 64) and labels.min() >= 1 and labels.max() <= len(LABELS)
    assert np.array_equal(np.asarray(picture), np.asarray(render(scene))), "labels change no picture"
    assert scene.identity.class_word in named(labels)


def test_labels_lie_where_the_painter_drew():
    scene = replace(scene_from_seed(5, held_out=False), place="beach")
    _, labels = render_labelled(scene)
    column = labels[:, 2]
    assert LABELS[column[1] - 1] == "sky" and LABELS[column[30] - 1] == "water" and LABELS[column[62] - 1] == "sand"
    assert {"sky", "water", "sand", scene.identity.class_word} <= named(labels)


def test_water_in_front_of_a_subject_covers_its_label():
    scene = replace(scene_from_seed(7, held_out=False), place="water", finish=None, outfit=None)
    _, labels = render_labelled(scene)
    own = subject_label(scene.identity.class_word)
    assert (labels == own).any() and not (labels[60:] == own).any() and LABELS[labels[62, 32] - 1] == "water"


def test_the_subjects_label_covers_what_differs_from_the_empty_place():
    scene = replace(scene_from_seed(9, held_out=False), place="cobblestone", finish=None, outfit=None)
    moved = replace(scene, pose=replace(scene.pose, x=scene.pose.x + 0.1))
    first, second = (render_labelled(each)[1] == subject_label(scene.identity.class_word) for each in (scene, moved))
    assert 0.05 < first.mean() < 0.8 and abs(first.mean() - second.mean()) < 0.05
    assert np.nonzero(second)[1].mean() > np.nonzero(first)[1].mean() + 3, "the label moves with the subject"


def test_labels_are_parts_and_class_words_with_colours_of_their_own():
    assert (*PARTS, *CLASS_WORDS) == LABELS and len(set(LABELS)) == len(LABELS) == 34
    assert len(set(label_colours())) == 35 and label_colours()[0] == (0, 0, 0)


def test_the_segmenter_knows_pictures_it_never_saw():
    test = render_scattered(TEST_SEED, 40, held_out=True)
    right, miou = measure_segmenter(load_segmenter(SEGMENTER_FOLDER), test.pixels, test.labels)
    assert right > 0.92 and miou > 0.7


def test_the_segmenter_is_small_and_answers_with_labels():
    model = load_segmenter(SEGMENTER_FOLDER)
    assert (SEGMENTER_FOLDER / "model.safetensors").stat().st_size <= 2_000_000
    assert SEGMENTER_CONFIG["labels"] == list(LABELS)
    found = find_labels(model, torch.zeros(2, 32, 64, 3, dtype=torch.uint8))
    assert found.shape == (2, 32, 64) and found.dtype == torch.uint8 and found.min() >= 1
