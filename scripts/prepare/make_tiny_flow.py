"""Writes a tiny random FLUX.2 or Z-Image in diffusers layout (2 MB, 32 px): for tests. Its images mean nothing.

python scripts/prepare/make_tiny_flow.py flux2|zimage FOLDER
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch

TEXT_WIDTH, MAX_TOKENS = 16, 48
TEXT_ENCODER = {
    "vocab_size": 258,
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": 5,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": MAX_TOKENS,
    "initializer_range": 0.5,
    "tie_word_embeddings": True,
}
TEXT_LAYERS = (1, 3, 4)
"""Of 5, unevenly: a layer too many or too few cannot go unnoticed."""
VAE = {
    "sample_size": 32,
    "latent_channels": 4,
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"],
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "mid_block_add_attention": False,
}
FLUX2 = {
    "in_channels": 16,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 3,
    "joint_attention_dim": len(TEXT_LAYERS) * TEXT_WIDTH,
    "timestep_guidance_channels": 16,
    "mlp_ratio": 2.0,
    "axes_dims_rope": [2, 2, 2, 2],
    "guidance_embeds": False,
}
"""24 wide: no other width of the model is."""
ZIMAGE = {
    "in_channels": 4,
    "dim": 24,
    "n_layers": 2,
    "n_refiner_layers": 1,
    "n_heads": 3,
    "n_kv_heads": 3,
    "cap_feat_dim": TEXT_WIDTH,
    "axes_dims": [4, 2, 2],
    "axes_lens": [192, 16, 16],
}
KLEIN_SCHEDULER = {"use_dynamic_shifting": True, "shift": 3.0}
ZIMAGE_SCHEDULER = {"use_dynamic_shifting": False, "shift": 3.0}
TEMPLATE = (
    "{% for message in messages %}u:{{ message['content'] }}{% endfor %}<|im_end|>"
    "{% if add_generation_prompt %}{{ 'yes' if enable_thinking else 'no' }}{% endif %}"
)
"""As Qwen's, the text says whether the model may think."""


def write_tiny_flow(folder: Path, family: str, *, seed: int = 0) -> Path:
    """Writes the model folder and returns it; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        index = WRITERS[family](folder)
    index |= {"_random_weights": True, "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}
    index |= {"tokenizer": ["transformers", "Qwen2Tokenizer"]}
    _write_tokenizer(folder / "tokenizer")
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


def _write_flux2(folder: Path) -> dict:
    from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel
    from transformers import Qwen3Config, Qwen3ForCausalLM

    Flux2Transformer2DModel(**FLUX2).save_pretrained(folder / "transformer")
    vae = AutoencoderKLFlux2(**VAE)
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.3, 3.0)
    vae.save_pretrained(folder / "vae")
    config = Qwen3Config(**TEXT_ENCODER, text_encoder_out_layers=list(TEXT_LAYERS))
    Qwen3ForCausalLM(config).save_pretrained(folder / "text_encoder")
    FlowMatchEulerDiscreteScheduler(**KLEIN_SCHEDULER).save_pretrained(folder / "scheduler")
    return {
        "_class_name": "Flux2KleinPipeline",
        "is_distilled": False,
        "text_encoder": ["transformers", "Qwen3ForCausalLM"],
        "transformer": ["diffusers", "Flux2Transformer2DModel"],
        "vae": ["diffusers", "AutoencoderKLFlux2"],
    }


def _write_zimage(folder: Path) -> dict:
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    transformer = ZImageTransformer2DModel(**ZIMAGE)
    for parameter in (transformer.x_pad_token, transformer.cap_pad_token):
        parameter.normal_()
    transformer.save_pretrained(folder / "transformer")
    AutoencoderKL(**VAE, scaling_factor=0.5, shift_factor=0.2).save_pretrained(folder / "vae")
    Qwen3Model(Qwen3Config(**TEXT_ENCODER)).save_pretrained(folder / "text_encoder")
    FlowMatchEulerDiscreteScheduler(**ZIMAGE_SCHEDULER).save_pretrained(folder / "scheduler")
    return {
        "_class_name": "ZImagePipeline",
        "text_encoder": ["transformers", "Qwen3Model"],
        "transformer": ["diffusers", "ZImageTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }


WRITERS: dict[str, Callable[[Path], dict]] = {"flux2": _write_flux2, "zimage": _write_zimage}


def _write_tokenizer(folder: Path) -> None:
    """A tokenizer without merges: a token is a byte."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    tokens = [*sorted(ByteLevel.alphabet()), "<|endoftext|>", "<|im_end|>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    Qwen2Tokenizer(vocab=vocab, merges=[], eos_token="<|im_end|>", chat_template=TEMPLATE).save_pretrained(folder)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in WRITERS:
        sys.exit(__doc__)
    print(write_tiny_flow(Path(sys.argv[2]), sys.argv[1]))
