"""Turns the weights of FID's Inception into the safetensors file that judge.inception reads.

python scripts/prepare/convert_inception.py weights-inception-2015-12-05-6726825d.pth inception.safetensors

The file is torch-fidelity's release (the original TensorFlow weights of 2015-12-05). It is a pickle; only tensors are
read from it (torch's weights_only), never code.
"""

import sys
from pathlib import Path

import torch

from delora_sd.files.tensors import write_tensors

KNOWN = "Mixed_7c.branch_pool.conv.weight"


def convert(source: Path, output: Path) -> None:
    """Raises SystemExit for a file of another network."""
    state = torch.load(source, map_location="cpu", weights_only=True)
    if KNOWN not in state:
        sys.exit(f"{source}: no Inception of FID ({KNOWN} is not in it)")
    write_tensors(output, {key: value.contiguous() for key, value in state.items()}, {"format": "pt"})


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    convert(*map(Path, sys.argv[1:]))
    print(sys.argv[2])
