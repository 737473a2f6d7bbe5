"""Is it this subject or another one like it: every image ranked among subjects. Unit vectors in, scores out."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from delora_eval.scoring.measures import metrics
from delora_eval.scoring.measures.discrimination import own_ranks, subject_similarity
from delora_eval.scoring.measures.measure import Score


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A subject that an image could show."""

    photos: Float[Tensor, "R D"]
    class_word: str


def measure_ranks(
    name: str, images: Float[Tensor, "G D"], prompts: Tensor, candidates: Mapping[str, Candidate]
) -> list[Score]:
    """Returns [rank_top1, rank_mrr, class_rank_top1, class_rank_mrr] of the images of subject `name`.

    The nearest subject is the one with the highest score: the mean cosine over its photos. A tie counts as a miss.
    Without a rival (of the class word) there is no rank, and the scores are left out.
    """
    own_class = candidates[name].class_word
    peers = {key: value for key, value in candidates.items() if value.class_word == own_class}
    scores = []
    for prefix, among in (("", candidates), ("class_", peers)):
        if len(among) > 1:
            ranks = _ranks(name, images, among)
            for ending, values in (("top1", ranks == 1), ("mrr", 1 / ranks)):
                by_prompt = metrics.mean_by_prompt(torch.from_numpy(values), prompts, pairs_each=1)
                details = {"candidates": len(among)}
                scores.append(Score(name=f"{prefix}rank_{ending}", by_prompt=by_prompt, details=details))
    return scores


def _ranks(name: str, images: Float[Tensor, "G D"], among: Mapping[str, Candidate]) -> np.ndarray:
    names = list(among)
    photos = torch.cat([among[each].photos for each in names]).double()
    owner = np.repeat(np.arange(len(names)), [len(among[each].photos) for each in names])
    similarity = (images.double() @ photos.T).numpy()
    own = np.full(len(images), names.index(name))
    return own_ranks(subject_similarity(similarity, owner), own)
