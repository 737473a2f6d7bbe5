"""CLIP and SigLIP 2 as open_clip builds them: images and texts in one space."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from delora_eval.scoring.judges.networks.words import Tokenize, folder_tokenizer, random_tokenizer


def build_contrastive(
    architecture: str, sizes: dict[str, Any], *, tokenizer: Path | None
) -> tuple[nn.Module, Callable, Callable]:
    """Returns (model, images to vectors, texts to vectors).

    Built from open_clip's config, never through its factory, which may download or unpickle.
    """
    import open_clip
    from open_clip.model import CustomTextCLIP

    config = open_clip.get_model_config(architecture) | sizes
    model = CustomTextCLIP(**config) if config.pop("custom_text", False) else open_clip.CLIP(**config)
    tokenize = _tokenizer(architecture, config["text_cfg"], tokenizer)

    def read(texts: Sequence[str]) -> Tensor:
        return model.encode_text(tokenize(texts).to(model.logit_scale.device))

    return model, model.encode_image, read


def warn_if_cut(texts: Sequence[str], encode: Callable[[str], list[int]], num_tokens: int, architecture: str) -> None:
    """Warns of each prompt whose end the judge does not read: its CLIP-T is that of the beginning."""
    num_words = num_tokens - 2  # start and end marks
    for text in texts:
        if (found := len(encode(text))) > num_words:
            warnings.warn(
                f"prompt '{text[:40]}...' has {found} tokens, {architecture} reads {num_words}: "
                "CLIP-T does not see the end of it",
                stacklevel=2,
            )


def _tokenizer(architecture: str, text_config: dict[str, Any], folder: Path | None) -> Tokenize:
    """CLIP's own tokenizer is part of open_clip; SigLIP 2's is a file, and untrained weights need none."""
    import open_clip
    from open_clip.tokenizer import get_clean_fn

    if "hf_tokenizer_name" not in text_config:
        own = open_clip.get_tokenizer(architecture)

        def tokenize_own(texts: Sequence[str]) -> Tensor:
            warn_if_cut(texts, own.encode, own.context_length, architecture)
            return own(list(texts))

        return tokenize_own
    length = text_config["context_length"]
    if folder is None:
        return random_tokenizer(text_config["vocab_size"], length)
    clean = get_clean_fn(text_config.get("tokenizer_kwargs", {}).get("clean", "whitespace"))
    tokenize = folder_tokenizer(folder, length)
    return lambda texts: tokenize([clean(text) for text in texts])
