"""Turns CSAIL's two files of UperNet-101 into the one safetensors file that judge.upernet_weights reads.

python scripts/prepare/convert_upernet.py encoder_epoch_50.pth decoder_epoch_50.pth upernet-101.safetensors

The files are those of `ade20k-resnet101-upernet` of semantic-segmentation-pytorch. They are pickles; only tensors are
read from them (torch's weights_only), never code.
"""

import sys
from pathlib import Path

import torch

from delora_eval.maps.upernet import UperNet
from delora_sd.files.tensors import write_tensors

UNUSED = "num_batches_tracked"
"""BatchNorm's counter, which old files lack and nothing reads."""


def convert(encoder: Path, decoder: Path, output: Path) -> None:
    """Raises SystemExit for files that are not the network's."""
    tensors = {}
    for name, file in (("encoder", encoder), ("decoder", decoder)):
        state = torch.load(file, map_location="cpu", weights_only=True)
        tensors |= {f"{name}.{key}": value.float() for key, value in state.items()}
    if "decoder.conv_last.1.weight" not in tensors:
        sys.exit("not UperNet-101: no decoder.conv_last.1.weight")
    num_classes = len(tensors["decoder.conv_last.1.weight"])
    with torch.device("meta"):
        expected = UperNet(num_classes).state_dict()
    missing = {key for key in expected if not key.endswith(UNUSED)} - tensors.keys()
    wrong = [key for key, value in expected.items() if key in tensors and tensors[key].shape != value.shape]
    if missing or wrong:
        sys.exit(
            f"not UperNet-101: {len(missing)} tensors missing, {len(wrong)} of other shapes ({[*missing, *wrong][:1]})"
        )
    counters = {key: torch.zeros((), dtype=torch.int64) for key in expected if key.endswith(UNUSED)}
    write_tensors(output, counters | {key: tensors[key] for key in expected if key in tensors}, {"format": "pt"})


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    convert(*map(Path, sys.argv[1:]))
    print(sys.argv[3])
