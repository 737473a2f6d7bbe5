"""Names of a UNet's layers in Stability's original code, which kohya's files of SDXL and many readers know."""

_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_ENDS = {
    "conv_in": "input_blocks.0.0", "conv_out": "out.2", "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2", "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip


def original_name(layer: str, num_resnets: int, with_attention: set[str]) -> str:
    """Returns the name in Stability's code ("input_blocks.1.1..."), "" where there is none.

    A block there is a flat list: of each down block its resnets (with their attention), then its downsampler; an up
    block has one resnet more, and its upsampler sits beside the last.
    """
    parts = layer.split(".", 4)
    if layer in _ENDS or len(parts) < 4:
        return _ENDS.get(layer, "")
    side, rest = parts[0], ".".join(parts[4:])
    if side == "mid_block":
        kind, number, rest = parts[1], int(parts[2]), ".".join(parts[3:])
        return f"middle_block.1.{rest}" if kind == "attentions" else f"middle_block.{2 * number}.{_resnet(rest)}"
    if side not in ("down_blocks", "up_blocks") or not (parts[1].isdigit() and parts[3].isdigit()):
        return ""
    block, kind, number = int(parts[1]), parts[2], int(parts[3])
    is_down = side == "down_blocks"
    position = block * (num_resnets + 1) + number + (1 if is_down else 0)
    name = f"{'input' if is_down else 'output'}_blocks"
    if kind == "resnets":
        return f"{name}.{position}.0.{_resnet(rest)}"
    if kind == "attentions":
        return f"{name}.{position}.1.{rest}"
    if kind == "downsamplers":
        return f"{name}.{(block + 1) * (num_resnets + 1)}.0.op"
    last = block * (num_resnets + 1) + num_resnets
    return f"{name}.{last}.{2 if parts[1] in with_attention else 1}.conv" if kind == "upsamplers" else ""


def _resnet(rest: str) -> str:
    return _RESNET.get(rest, rest)
