"""A vision-language model through transformers: one image, one question in; an answer, its probabilities out."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from delora_eval.scoring.judges.networks.encoders import RANDOM_SEED
from delora_eval.scoring.judges.networks.weights import Weights
from delora_sd.errors import UserError

MOST_TOKENS = 8
"""Of the raw answer that is kept; its first one decides."""

_SPACES = "▁Ġ \u2581"
"""How tokenizers write the space before a word."""


@dataclass(frozen=True, kw_only=True)
class AskedModel:
    """A loaded vision-language model in fp32, or in bf16 on a GPU."""

    model: nn.Module
    processor: Any
    device: torch.device


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model said about one image."""

    question: str
    said: str
    """Its own words, greedily."""
    probabilities: dict[str, float]
    """{answer that counts: probability of its first token, among all tokens}."""


def load_asked_model(weights: Weights, folder: Path, device: torch.device) -> AskedModel:
    """Returns the model of a local folder; safetensors only, and no code from the folder runs.

    Raises:
        UserError: transformers cannot load it as a model of images and text.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    try:
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        if weights.is_random:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(RANDOM_SEED)
                sizes = AutoConfig.from_pretrained(folder, local_files_only=True)
                model = AutoModelForImageTextToText.from_config(sizes).to(dtype)
        else:
            model = AutoModelForImageTextToText.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, local_files_only=True
            )
    except (OSError, ValueError, ImportError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"encoders.vlm={folder}: not a vision-language model that transformers loads ({reason})"
        ) from None
    return AskedModel(model=model.eval().requires_grad_(False).to(device), processor=processor, device=device)


def ask(asked: AskedModel, image: Image.Image, question: str, answers: Sequence[str]) -> Answer:
    """Returns what the model says and how likely each of `answers` is as its first word."""
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    inputs = asked.processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    ).to(asked.device)
    with torch.inference_mode():
        made = asked.model.generate(
            **inputs, max_new_tokens=MOST_TOKENS, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
    likely = made.logits[0][0].float().softmax(dim=-1).cpu()
    tokenizer = asked.processor.tokenizer
    said = tokenizer.decode(made.sequences[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    probabilities = {answer: likely[token_ids(tokenizer, answer)].sum().item() for answer in answers}
    return Answer(question=question, said=said.strip(), probabilities=probabilities)


def token_ids(tokenizer: Any, word: str) -> list[int]:
    """Returns the tokens that are the word, in any case, with or without a space before it.

    Raises:
        UserError: the model writes the word with several tokens, so its probability cannot be read.
    """
    vocabulary = tokenizer.get_vocab()
    ids = [place for token, place in vocabulary.items() if token.lstrip(_SPACES).lower() == word]
    if not ids:
        raise UserError(f"encoders.vlm: its tokenizer has no single token for '{word}', so the answer cannot be read")
    return sorted(ids)


def has_chat_template(folder: Path) -> bool:
    """Returns whether the folder says how a question is put to its model; looks at files only."""
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    return any(_names_template(folder / name) for name in ("tokenizer_config.json", "processor_config.json"))


def _names_template(file: Path) -> bool:
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(settings, dict) and bool(settings.get("chat_template"))
