"""The family of judges: every judge by name, what it shows its encoder, and the scores it gives. Data only.

A protocol's own DINO and CLIP are `classic`. Every other judge has the preprocessing its authors published.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from delora_eval.scoring.judges.networks.preprocessing import HALF, IMAGENET, UNIT, Preprocessing
from delora_eval.scoring.judges.networks.weights import VLM
from delora_eval.scoring.judges.protocols import CLIP, CROP, View
from delora_sd.errors import UserError, nearest_name

CLASSIC = "classic"
"""The DINO and CLIP that the protocol names: what the papers' tables print."""

DINOV3 = Preprocessing(
    resize="short_side", resize_px=256, crop_px=256, resample="bicubic", mean=IMAGENET[0], std=IMAGENET[1]
)
"""timm's data config of its DINOv3 models."""

SIGLIP2 = Preprocessing(resize="squash", resize_px=224, crop_px=224, resample="bicubic", mean=HALF[0], std=HALF[1])
"""open_clip's config of ViT-SO400M-14-SigLIP2."""

DREAMSIM = Preprocessing(resize="squash", resize_px=224, crop_px=224, resample="bicubic", mean=UNIT[0], std=UNIT[1])
"""`dreamsim.dreamsim()[1]`; each of its encoders then has its own statistics."""

Kind = Literal["vectors", "patches", "questions"]


@dataclass(frozen=True, kw_only=True)
class JudgeScore:
    """One score a judge gives: its name in score lines and what it means."""

    name: str
    label: str
    meaning: str
    is_distance: bool = False


@dataclass(frozen=True, kw_only=True)
class FamilyJudge:
    """A judge: an encoder, how it is shown an image, and its scores."""

    name: str
    encoder: str
    preprocessing: Preprocessing | None
    """none: the encoder's own code decides."""
    kind: Kind = "vectors"
    """vectors: a cosine of two images. patches: needs masks. questions: a language model is asked."""
    subject: tuple[JudgeScore, ...] = ()
    """Scores of an image against a photo."""
    prompt: tuple[JudgeScore, ...] = ()
    """Scores of an image against its prompt."""

    @property
    def view(self) -> View:
        return View(encoder=self.encoder, preprocessing=self.preprocessing)

    @property
    def scores(self) -> tuple[JudgeScore, ...]:
        return self.subject + self.prompt


def _image_judge(name: str, score: str, label: str, preprocessing: Preprocessing | None) -> FamilyJudge:
    meaning = f"Subject fidelity by {label}: mean cosine over all photo x image pairs."
    subject = (JudgeScore(name=score, label=label, meaning=meaning),)
    return FamilyJudge(name=name, encoder=name, preprocessing=preprocessing, subject=subject)


def _image_and_text_judge(name: str, score: str, label: str, preprocessing: Preprocessing | None) -> FamilyJudge:
    return FamilyJudge(
        name=name,
        encoder=name,
        preprocessing=preprocessing,
        subject=(
            JudgeScore(
                name=f"{score}_i",
                label=f"{label} I",
                meaning=f"Subject fidelity by {label}: mean cosine over all photo x image pairs.",
            ),
        ),
        prompt=(
            JudgeScore(
                name=f"{score}_t",
                label=f"{label} T",
                meaning=f"Prompt fidelity by {label}: mean cosine of image and prompt text.",
            ),
        ),
    )


_DREAMSIM = FamilyJudge(
    name="dreamsim/ensemble",
    encoder="dreamsim/ensemble",
    preprocessing=DREAMSIM,
    subject=(
        JudgeScore(
            name="dreamsim",
            label="DreamSim",
            meaning="Subject fidelity by DreamSim: 1 - its distance, mean over all photo x image pairs.",
        ),
        JudgeScore(
            name="dreamsim_distance",
            label="DreamSim distance",
            meaning="DreamSim's own distance, mean over all photo x image pairs. Lower is more alike.",
            is_distance=True,
        ),
    ),
)

_MASC = FamilyJudge(
    name="masc",
    encoder="siglip2/so400m-16-naflex",
    preprocessing=None,
    kind="patches",
    subject=(
        JudgeScore(
            name="masc_cp",
            label="MaSC CP",
            meaning="Subject fidelity: mean over the photo's foreground patches of the best cosine to any patch of the "
            "image; needs masks of the photos.",
        ),
    ),
    prompt=(
        JudgeScore(
            name="masc_pf",
            label="MaSC PF",
            meaning="Prompt fidelity: the image's background against the prompt without the subject; "
            "needs masks of the images.",
        ),
    ),
)

_VQA = FamilyJudge(
    name="vqa",
    encoder=VLM,
    preprocessing=None,
    kind="questions",
    prompt=(
        JudgeScore(
            name="vqa",
            label="VQA",
            meaning="Prompt fidelity: how likely a vision-language model says yes, asked whether the image shows it.",
        ),
    ),
)

_RUBRIC = FamilyJudge(
    name="rubric",
    encoder=VLM,
    preprocessing=None,
    kind="questions",
    prompt=(
        JudgeScore(
            name="rubric",
            label="Rubric",
            meaning="Prompt fidelity from 0 to 4 on the scale of DreamBench++, by a vision-language model.",
        ),
    ),
)

FAMILY = {
    judge.name: judge
    for judge in (
        _image_judge("dino/vit-s-16", "dino_s16", "DINO S/16", CROP),
        _image_judge("dino/vit-b-16", "dino_b16", "DINO B/16", CROP),
        _image_judge("dinov2/vit-b-14", "dinov2_b14", "DINOv2 B/14", CROP),
        _image_judge("dinov2/vit-l-14", "dinov2_l14", "DINOv2 L/14", CROP),
        _image_judge("dinov3/vit-b-16", "dinov3_b16", "DINOv3 B/16", DINOV3),
        _image_judge("dinov3/vit-l-16", "dinov3_l16", "DINOv3 L/16", DINOV3),
        _image_and_text_judge("clip/vit-b-32", "clip_b32", "CLIP B/32", CLIP),
        _image_and_text_judge("clip/vit-l-14", "clip_l14", "CLIP L/14", CLIP),
        _image_and_text_judge("siglip2/so400m-14", "siglip2", "SigLIP 2", SIGLIP2),
        _DREAMSIM,
        _MASC,
        _VQA,
        _RUBRIC,
        _image_judge("mini-dino", "mini_dino", "mini-DINO", None),
        _image_and_text_judge("mini-clip", "mini_clip", "mini-CLIP", None),
    )
}
"""DINOv2 is shown 224 px after a resize to 256, as its authors evaluate it and as transformers' processor does;
timm's own config for the same weights says 518."""

WIDE = ("dino/vit-b-16", "dinov2/vit-b-14", "dinov2/vit-l-14", "dinov3/vit-b-16", "dinov3/vit-l-16")
WIDE += ("siglip2/so400m-14", "dreamsim/ensemble", "masc")

ASKED = ("vqa", "rubric")
"""Judges that are a question to a language model; in no set, because which model is for the user to say."""

SETS = {CLASSIC: (CLASSIC,), "wide": WIDE, "all": (CLASSIC, *WIDE)}
"""What `judges.set` may name beside single judges."""

JUDGE_OF = {
    prefix + score.name: judge.name for judge in FAMILY.values() for score in judge.scores for prefix in ("", "real_")
}
"""{score: judge}; scores that are not in it are classic."""


def judge_names(chosen: Sequence[str]) -> tuple[str, ...]:
    """Returns the judges of `judges.set`, each once, sets written out; `classic` stands for the protocol's own.

    Raises:
        UserError: an unknown set or judge, or nothing chosen.
    """
    known = (*SETS, *FAMILY)
    for name in chosen:
        if name not in known:
            raise UserError(f"judges.set={name}: unknown judge{nearest_name(name, known)}")
    names = tuple(dict.fromkeys(member for name in chosen for member in SETS.get(name, (name,))))
    if not names:
        raise UserError(f"judges.set is empty; give one or more of {', '.join(known)}")
    return names
