"""Named random streams: what is drawn depends on the stream's name alone, never on what was drawn before."""

import hashlib

import torch


def stream_generator(name: str) -> torch.Generator:
    """Returns a CPU generator seeded by the first 56 bits of the name's sha256."""
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
