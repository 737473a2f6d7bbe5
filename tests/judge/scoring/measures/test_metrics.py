"""Scores of a hand-made case against naive double loops written from the definitions."""

import itertools
import math

import pytest
import torch

from delora_eval.scoring.judges.protocols import PROTOCOLS, combinations, find_protocol
from delora_eval.scoring.measures import metrics
from delora_eval.scoring.measures.measure import (
    EmbeddedImages,
    EmbeddedSubject,
    measure_ceiling,
    measure_copies,
    measure_diversity,
    measure_drift,
    measure_fidelity,
    measure_pres,
    measure_prompts,
)
from delora_eval.scoring.measures.metrics import PairMean, pool

ALL_PROTOCOLS = [*PROTOCOLS, *(protocol.name for protocol in combinations()), "oft+substring_bug"]


def unit_rows(count: int, seed: int, width: int = 5) -> torch.Tensor:
    rows = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return rows / rows.norm(dim=1, keepdim=True)


def make_subject(name: str, num_photos: int, prompts: list[int], seed: int) -> EmbeddedSubject:
    return EmbeddedSubject(
        name=name,
        photos_dino=unit_rows(num_photos, seed),
        photos_clip=unit_rows(num_photos, seed + 1),
        images=EmbeddedImages(
            dino=unit_rows(len(prompts), seed + 2),
            clip=unit_rows(len(prompts), seed + 3),
            prompts=torch.tensor(prompts),
        ),
    )


@pytest.fixture
def eight_images() -> list[EmbeddedSubject]:
    """Two photos and two images of `dog`, three photos and one image of `backpack_dog`."""
    return [make_subject("dog", 2, [0, 1], seed=10), make_subject("backpack_dog", 3, [0], seed=20)]


def dot(left: torch.Tensor, right: torch.Tensor) -> float:
    return sum(a * b for a, b in zip(left.tolist(), right.tolist(), strict=True))


def naive_fidelity(subjects: list[EmbeddedSubject], pooling: str, with_bug: bool) -> tuple[float, int]:
    """oft-db/eval.py's double loop over folders, or a mean per subject."""
    per_subject = []
    for subject in subjects:
        values = []
        for other in subjects:
            folder = f"{other.name}-0"
            matches = subject.name + "-" in folder if with_bug else subject.name == other.name
            if matches:
                values += [dot(p, g) for p in subject.photos_dino for g in other.images.dino]
        per_subject.append(values)
    everything = list(itertools.chain(*per_subject))
    if pooling == "pairs":
        return sum(everything) / len(everything), len(everything)
    return sum(sum(values) / len(values) for values in per_subject) / len(per_subject), len(everything)


@pytest.mark.parametrize("name", ALL_PROTOCOLS)
def test_dino_equals_a_naive_double_loop_under_every_protocol(eight_images, name):
    protocol = find_protocol(name)
    scores = measure_fidelity(eight_images, protocol)
    pooled = pool([scores[subject.name][0].total for subject in eight_images], protocol.pooling)
    value, pairs = naive_fidelity(eight_images, protocol.pooling, "substring_bug" in name)
    assert pooled.value == pytest.approx(value, abs=1e-6)
    assert pooled.pairs == pairs
    assert pairs == (9 if "substring_bug" in name else 7)


@pytest.mark.parametrize("name", ALL_PROTOCOLS)
def test_real_row_equals_a_naive_double_loop_under_every_protocol(eight_images, name):
    protocol = find_protocol(name)
    values = [
        [
            dot(left, right)
            for (i, left), (j, right) in itertools.product(enumerate(subject.photos_clip), repeat=2)
            if i != j or protocol.keeps_self_pairs
        ]
        for subject in eight_images
    ]
    flat = list(itertools.chain(*values))
    mean_of_means = sum(sum(row) / len(row) for row in values) / len(values)
    rows = [
        measure_ceiling(subject.photos_dino, subject.photos_clip, keeps_self_pairs=protocol.keeps_self_pairs)[1].total
        for subject in eight_images
    ]
    pooled = pool(rows, protocol.pooling)
    expected = mean_of_means if protocol.pooling == "subjects" else sum(flat) / len(flat)
    assert pooled.value == pytest.approx(expected, abs=1e-6)
    assert pooled.pairs == (13 if protocol.keeps_self_pairs else 8)


def test_poolings_differ_when_subjects_have_different_numbers_of_photos(eight_images):
    scores = [scores[0].total for scores in measure_fidelity(eight_images, PROTOCOLS["oft"]).values()]
    assert abs(pool(scores, "pairs").value - pool(scores, "subjects").value) > 0.01


def test_substring_bug_gives_dog_the_images_of_backpack_dog_and_never_the_reverse(eight_images):
    strict = measure_fidelity(eight_images, find_protocol("oft"))
    buggy = measure_fidelity(eight_images, find_protocol("oft+substring_bug"))
    assert [scores["dog"][0].total.images for scores in (strict, buggy)] == [2, 3]
    assert strict["backpack_dog"][0].total == buggy["backpack_dog"][0].total


def test_score_per_prompt_pools_to_the_total(eight_images):
    score = measure_fidelity(eight_images, PROTOCOLS["dreambooth"])["dog"][0]
    assert score.by_prompt.keys() == {0, 1}
    assert sum(mean.value for mean in score.by_prompt.values()) / 2 == pytest.approx(score.total.value)


def test_copies_are_images_nearer_than_the_two_most_alike_photos():
    photos = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]), dim=1)
    near = torch.nn.functional.normalize(torch.tensor([[0.99, 0.1], [0.5, -0.9]]), dim=1)
    subject = EmbeddedSubject(
        name="dog",
        photos_dino=photos,
        photos_clip=photos,
        images=EmbeddedImages(dino=near, clip=near, prompts=torch.tensor([0, 0])),
    )
    nearest, copies = measure_copies(subject, threshold=None)
    assert copies.details["threshold"] == pytest.approx(0.8)
    assert copies.total == PairMean(value=0.5, pairs=2, images=2)
    expected = [max(dot(photo, image) for photo in photos) for image in near]
    assert nearest.total.value == pytest.approx(sum(expected) / 2, abs=1e-6)
    assert measure_copies(subject, threshold=0.999)[1].total.value == 0


def test_diversity_compares_only_images_of_the_same_prompt():
    vectors = unit_rows(5, seed=3)
    images = EmbeddedImages(dino=vectors, clip=vectors, prompts=torch.tensor([0, 1, 0, 1, 2]))
    (score,) = measure_diversity(images)
    expected = {0: 1 - dot(vectors[0], vectors[2]), 1: 1 - dot(vectors[1], vectors[3])}
    assert {prompt: mean.value for prompt, mean in score.by_prompt.items()} == pytest.approx(expected, abs=1e-6)
    assert score.total.pairs == 2


def test_drift_is_zero_for_the_base_models_own_images():
    vectors = unit_rows(3, seed=4)
    scores = measure_drift((vectors, vectors), (vectors, vectors.roll(1, 0)), torch.tensor([0, 0, 1]))
    assert scores[0].name == "drift_dino"
    assert scores[0].total.value == pytest.approx(0, abs=1e-6)
    expected = sum(1 - dot(vectors[i], vectors[i - 1]) for i in range(3)) / 3
    assert scores[1].total.value == pytest.approx(expected, abs=1e-6)


def test_pres_compares_class_images_with_the_subjects_photos(eight_images):
    dog = eight_images[0]
    values = [dot(photo, image) for photo in dog.photos_dino for image in dog.images.dino]
    assert measure_pres(dog).total.value == pytest.approx(sum(values) / 4, abs=1e-6)


def test_context_and_class_accuracy_count_images_whose_own_text_wins():
    texts = torch.eye(3)
    clip = torch.nn.functional.normalize(torch.tensor([[1.0, 0.1, 0], [0.2, 0.1, 1.0]]), dim=1)
    other = torch.tensor([[-1.0, 0, 0], [0, 0, 1], [0, 0, -1]])  # of another class: it wins the second prompt
    classes = torch.stack([texts, other, -texts])
    images = EmbeddedImages(
        dino=clip, clip=clip, prompts=torch.tensor([0, 1]), texts=texts, class_texts=classes, own_class=0
    )
    clip_t, context, of_class = measure_prompts(images)
    assert clip_t.total.value == pytest.approx((clip[0, 0] + clip[1, 1]).item() / 2, abs=1e-6)
    assert context.total.value == 0.5
    assert context.details == {"candidates": 3}
    assert of_class.total.value == 0.5


def test_a_tie_between_texts_counts_as_a_miss():
    same = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    hits = metrics.nearest_text(torch.tensor([[1.0, 0.0]]), same, torch.tensor([0]))
    assert hits.tolist() == [False]


def test_one_photo_has_no_ceiling_but_says_so():
    (dino, _) = measure_ceiling(unit_rows(1, 1), unit_rows(1, 2), keeps_self_pairs=False)
    assert math.isnan(dino.total.value)
    assert dino.total.pairs == 0


def test_every_score_has_a_meaning_and_a_known_encoder():
    for kind in metrics.SCORES.values():
        assert kind.label and kind.meaning.endswith(".")
        assert kind.encoder in ("dino", "clip", "lpips", "judge")
