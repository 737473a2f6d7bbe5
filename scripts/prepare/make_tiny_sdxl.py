"""Writes a tiny random SDXL in diffusers layout (2 MB, 32 px): for tests. Its images mean nothing.

python scripts/prepare/make_tiny_sdxl.py FOLDER
"""

import json
import sys
from pathlib import Path

import torch

from make_tiny_sd import END_ID, MODEL_INDEX, SCHEDULER, START_ID, TEXT_ENCODER, VAE

TEXT_ENCODER_2 = TEXT_ENCODER | {"hidden_size": 32, "intermediate_size": 64, "projection_dim": 20, "hidden_act": "gelu"}
UNET = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [16, 32],
    "layers_per_block": 2,
    "transformer_layers_per_block": [1, 2],
    "norm_num_groups": 8,
    "cross_attention_dim": TEXT_ENCODER["hidden_size"] + TEXT_ENCODER_2["hidden_size"],
    "attention_head_dim": [2, 4],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": TEXT_ENCODER_2["projection_dim"] + 6 * 8,
}
"""Two layers a block and several transformer layers, as SDXL: its names in other tools depend on them."""


def write_tiny_sdxl(folder: Path, *, seed: int = 0) -> Path:
    """Writes the model folder and returns it; the same seed gives the same weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from delora_sd.diffusion.text.spelling import write_spelling_tokenizer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        UNet2DConditionModel(**UNET).save_pretrained(folder / "unet")
        AutoencoderKL(**VAE).save_pretrained(folder / "vae")
        CLIPTextModel(CLIPTextConfig(**TEXT_ENCODER)).save_pretrained(folder / "text_encoder")
        second = CLIPTextModelWithProjection(CLIPTextConfig(**TEXT_ENCODER_2))
        second.save_pretrained(folder / "text_encoder_2")
    for name in ("tokenizer", "tokenizer_2"):
        write_spelling_tokenizer(folder / name, start_id=START_ID, end_id=END_ID)
    scheduler = SCHEDULER | {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler, indent=2))
    (folder / "model_index.json").write_text(json.dumps(MODEL_INDEX_XL, indent=2))
    return folder


MODEL_INDEX_XL = {name: value for name, value in MODEL_INDEX.items() if name != "safety_checker"} | {
    "_class_name": "StableDiffusionXLPipeline",
    "force_zeros_for_empty_prompt": True,
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
}

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(write_tiny_sdxl(Path(sys.argv[1])))
