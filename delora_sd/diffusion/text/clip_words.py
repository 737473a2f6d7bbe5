"""CLIP's own tokenizer, offline: its words come with open_clip, which has OpenAI's file and no other form of it."""

import gzip
import json
from pathlib import Path

from delora_sd.diffusion.text.spelling import byte_letters

NUM_WORDS = 49_408
"""Letters, letters at a word's end, merges, and the two marks."""

START, END = "<|startoftext|>", "<|endoftext|>"


def write_clip_tokenizer(folder: Path, *, pad: str = END, num_tokens: int = 77) -> None:
    """Writes CLIP's tokenizer as diffusers' folders have it; `pad` fills the rest of a prompt (SDXL's second: "!")."""
    merges = _merges()
    letters = byte_letters()
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge.split()) for merge in merges)]
    vocabulary = {word: number for number, word in enumerate([*words, START, END])}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    marks = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": num_tokens, **marks}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(marks, indent=2), encoding="utf-8")


def _merges() -> list[str]:
    import open_clip

    file = Path(open_clip.__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
    lines = gzip.decompress(file.read_bytes()).decode("utf-8").split("\n")
    return lines[1 : NUM_WORDS - 512 - 2 + 1]  # the file goes on with merges that CLIP does not use
