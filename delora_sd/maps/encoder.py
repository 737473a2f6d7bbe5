"""The control encoder: ControlNet's hint block alone. Built new or taken from a ControlNet, saved with its palette.

Zhang et al. 2023, "Adding Conditional Control to Text-to-Image Diffusion Models", Sec. 3.2; used alone by OFT (Qiu et
al. 2023): no copy of the UNet, no residuals.
"""

from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from delora_sd.diffusion.families.family import Base
from delora_sd.errors import UserError
from delora_sd.files.hub import find_model_folder
from delora_sd.files.run_folder import read_json, write_folder, write_json
from delora_sd.files.tensors import read_tensors, refuse_pickle, write_tensors
from delora_sd.maps.palette import PALETTE_FILE, Palette, parse_palette
from delora_sd.maps.settings import ControlConfig
from delora_sd.random_streams import stream_generator

CONTROL_FOLDER = "control"
"""Beside the adapter, in a run folder and in every checkpoint."""

WEIGHTS_FILE = "control_encoder.safetensors"
CONFIG_FILE = "config.json"

WIDTHS = (16, 32, 96, 256)
"""ControlNet's; every step but the first halves the side, so a base whose latents are less reduced takes fewer."""

SILU_GAIN = 2.8
"""What SiLU takes from the mean square of normal values."""

_EMBEDDING = "controlnet_cond_embedding."
_CONTROLNET_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")


class ControlEncoder(nn.Module):
    """Maps to what is added to the output of the UNet's first convolution; fp32."""

    def __init__(self, block: nn.Module, palette: Palette):
        super().__init__()
        self.block = block
        self.palette = palette
        self.register_buffer("colours", torch.from_numpy(palette.colours).float() / 255, persistent=False)

    def forward(self, labels: UInt8[Tensor, "maps height width"]) -> Float[Tensor, "maps channels side side"]:
        """Returns the hint of each map; its colours are in [0, 1], as ControlNet's were."""
        return self.block(self.colours[labels.long()].permute(0, 3, 1, 2).contiguous())


def check_can_control(base: Base, unet: nn.Module) -> None:
    """Raises UserError for a base without a first convolution to add a hint to, or whose latents are reduced oddly."""
    if not any(name == "conv_in" and isinstance(layer, nn.Conv2d) for name, layer in unet.named_children()):
        raise UserError(f"{base.name}: its denoiser has no first convolution, where a map's hint is added; use a UNet")
    encoder_widths(base)


def create_encoder(
    config: ControlConfig, palette: Palette, base: Base, unet: nn.Module, *, seed: int
) -> ControlEncoder:
    """Returns the encoder that training starts from, on the CPU.

    Raises:
        UserError: no ControlNet of that name, or one for another base.
    """
    widths, channels = encoder_widths(base), unet.conv_in.out_channels
    encoder = ControlEncoder(_new_block(widths, channels), palette)
    if config.encoder == "scratch":
        _start_new(encoder.block, seed)
    else:
        _fill(encoder.block, read_pretrained(config.checkpoint), source=f"control.checkpoint={config.checkpoint}")
    return encoder


def encoder_widths(base: Base) -> tuple[int, ...]:
    """Returns the widths that bring a map of the base's size to the size of its latents."""
    reduction = base.latent_factor
    num_halvings = reduction.bit_length() - 1
    if not 1 <= num_halvings < len(WIDTHS):
        raise UserError(
            f"{base.name}: latents {reduction} times smaller than images; a control encoder makes 2, 4 or 8"
        )
    return WIDTHS[: num_halvings + 1]


def _new_block(widths: tuple[int, ...], channels: int) -> nn.Module:
    """Its values are filled by the caller, so none are drawn here."""
    from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding

    with torch.device("meta"):
        block = ControlNetConditioningEmbedding(channels, block_out_channels=widths)
    return block.to_empty(device="cpu").float()


@torch.no_grad()
def _start_new(block: nn.Module, seed: int) -> None:
    """Seven convolutions that pass a map's signal on at its size, from a stream of the seed; the last one is zero.

    Under torch's own start each of them halves it and more: a new encoder then learns nothing for hundreds of steps.
    """
    for name, layer in block.named_modules():
        if not isinstance(layer, nn.Conv2d):
            continue
        generator = stream_generator(f"{seed}/control encoder/{name}")
        bound = (3 * SILU_GAIN / layer.weight[0].numel()) ** 0.5
        layer.weight.copy_(torch.empty(layer.weight.shape).uniform_(-bound, bound, generator=generator))
        layer.bias.zero_()
    block.conv_out.weight.zero_()


def read_pretrained(checkpoint: str) -> dict[str, Tensor]:
    """Returns the tensors of a ControlNet's hint block, fp32; the rest of the file is not read.

    Raises:
        UserError: not to be had, pickled weights only, or no ControlNet.
    """
    try:
        folder = find_model_folder(checkpoint, is_offline=False)
    except FileNotFoundError as error:
        raise UserError(
            f"control.checkpoint={checkpoint}: {error}; give a ControlNet's folder, or control.encoder=scratch"
        ) from None
    file = next((folder / name for name in _CONTROLNET_FILES if (folder / name).is_file()), None)
    if file is None:
        for pickle in folder.glob("*.bin"):
            refuse_pickle(pickle)
        raise UserError(f"control.checkpoint={checkpoint}: no {_CONTROLNET_FILES[0]} in {folder}")
    tensors = read_tensors(file, prefix=_EMBEDDING)[0]
    if not tensors:
        raise UserError(f"control.checkpoint={checkpoint}: {file.name} holds no {_EMBEDDING[:-1]}; it is no ControlNet")
    return {name.removeprefix(_EMBEDDING): value.float() for name, value in tensors.items()}


@torch.no_grad()
def _fill(block: nn.Module, tensors: dict[str, Tensor], *, source: str) -> None:
    own = dict(block.named_parameters())
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    expected = {name: tuple(value.shape) for name, value in own.items()}
    if found != expected:
        name = sorted(set(found.items()) ^ set(expected.items()))[0][0]
        raise UserError(
            f"{source}: '{name}' has shape {found.get(name, 'none')}, the base needs {expected.get(name, 'none')}; it "
            "was made for another base"
        )
    for name, value in own.items():
        value.copy_(tensors[name])


def count_encoder(widths: tuple[int, ...], channels: int) -> int:
    """Returns the encoder's parameters: 1,086,480 for Stable Diffusion 1.5."""
    return sum(parameter.numel() for parameter in _new_block(widths, channels).parameters())


def save_encoder(encoder: ControlEncoder, folder: Path) -> None:
    """Writes the weights, the widths and the palette, whole or not at all."""

    def write(path: Path) -> None:
        write_tensors(path / WEIGHTS_FILE, dict(encoder.block.named_parameters()), {"format": "pt"})
        write_json(
            path / CONFIG_FILE, {"widths": _widths(encoder.block), "channels": encoder.block.conv_out.out_channels}
        )
        (path / PALETTE_FILE).write_text(encoder.palette.text, encoding="utf-8")

    write_folder(folder, write)


def load_encoder(folder: Path, unet: nn.Module) -> ControlEncoder:
    """Returns the saved encoder in evaluation mode, fp32, on the CPU.

    Raises:
        UserError: not a folder of ours, or an encoder for a UNet of another width.
    """
    facts = read_json(folder / CONFIG_FILE)
    widths = facts.get("widths") if isinstance(facts, dict) else None
    if widths not in [list(WIDTHS[:count]) for count in range(2, len(WIDTHS) + 1)]:
        raise UserError(f"{folder / CONFIG_FILE}: no widths of a control encoder; get the folder again")
    encoder = ControlEncoder(_new_block(tuple(widths), unet.conv_in.out_channels), load_palette(folder))
    _fill(encoder.block, read_tensors(folder / WEIGHTS_FILE)[0], source=str(folder))
    return encoder.eval().requires_grad_(False)


def load_palette(folder: Path) -> Palette:
    """Returns the palette that the encoder in the folder was trained on."""
    file = folder / PALETTE_FILE
    if not file.is_file():
        raise UserError(f"{file} does not exist; get the folder again")
    return parse_palette(file.read_text(encoding="utf-8"), source=str(file))


def restore_encoder(encoder: ControlEncoder, folder: Path) -> None:
    """Fills a living encoder with saved values, bit for bit: how training resumes."""
    _fill(encoder.block, read_tensors(folder / WEIGHTS_FILE)[0], source=str(folder))


def _widths(block: nn.Module) -> list[int]:
    return [block.conv_in.out_channels, *(layer.out_channels for layer in block.blocks[1::2])]


class HintPort:
    """Adds what it holds, once, to what the UNet's first convolution gives; it thereby enters that skip as well.

    A batch that is a multiple of the hints' (both branches of guidance) gets them repeated.
    """

    def __init__(self, unet: nn.Module):
        self.hint: Tensor | None = None
        self._hook = unet.conv_in.register_forward_hook(self._add)

    def _add(self, _layer: nn.Module, _inputs: tuple, output: Tensor) -> Tensor:
        if self.hint is None:
            return output
        return output + self.hint.to(output.dtype).repeat(len(output) // len(self.hint), 1, 1, 1)

    def close(self) -> None:
        """The UNet computes as if no map were there."""
        self._hook.remove()
