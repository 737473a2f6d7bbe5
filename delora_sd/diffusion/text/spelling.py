"""A CLIP tokenizer without merges: every word is spelled letter by letter.

For models whose words mean nothing (random weights), where CLIP's own 49,408 words cannot be had offline.
"""

import json
from pathlib import Path


def write_spelling_tokenizer(folder: Path, *, start_id: int, end_id: int, num_tokens: int = 77) -> None:
    """Writes a tokenizer folder in CLIP's format whose ids 0 to 511 are CLIP's own first 512: single letters.

    Args:
        start_id: Id of <|startoftext|>, at least 512.
        end_id: Id of <|endoftext|>, which also pads.
        num_tokens: Longest prompt, both marks included.
    """
    letters = byte_letters()
    vocabulary = {token: i for i, token in enumerate(letters + [letter + "</w>" for letter in letters])}
    vocabulary |= {"<|startoftext|>": start_id, "<|endoftext|>": end_id}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    marks = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    marks["unk_token"] = "<|endoftext|>"
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": num_tokens, **marks}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(marks, indent=2), encoding="utf-8")


def byte_letters() -> list[str]:
    """Returns the 256 printable stand-ins for bytes, in the order of CLIP's vocabulary (GPT-2's byte alphabet)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    num_others = 256 - len(printable)
    return [chr(code) for code in printable] + [chr(256 + i) for i in range(num_others)]
