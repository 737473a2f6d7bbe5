"""Writes a tiny random Stable Diffusion in diffusers layout (1 MB, 32 px): for tests. Its images mean nothing.

python scripts/prepare/make_tiny_sd.py FOLDER
"""

import json
import sys
from pathlib import Path

import torch

START_ID, END_ID = 512, 513
"""Ids of the start and end marks, after the 512 letters of the spelling tokenizer."""

UNET = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [16, 32],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 24,
    "attention_head_dim": 2,
}
"""Widths differ from level to level and from the text's: a transposed matrix cannot go unnoticed."""
VAE = {
    "sample_size": 32,
    "latent_channels": 4,
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"],
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "scaling_factor": 0.5,
}
TEXT_ENCODER = {
    "vocab_size": 514,
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 77,
    "bos_token_id": START_ID,
    "eos_token_id": END_ID,
    "pad_token_id": END_ID,
}
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}


def write_tiny_sd(folder: Path, *, prediction_type: str = "epsilon", seed: int = 0) -> Path:
    """Writes the model folder and returns it; the same seed gives the same weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from delora_sd.diffusion.text.spelling import write_spelling_tokenizer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        UNet2DConditionModel(**UNET).save_pretrained(folder / "unet")
        AutoencoderKL(**VAE).save_pretrained(folder / "vae")
        CLIPTextModel(CLIPTextConfig(**TEXT_ENCODER)).save_pretrained(folder / "text_encoder")
    write_spelling_tokenizer(folder / "tokenizer", start_id=START_ID, end_id=END_ID)
    scheduler = SCHEDULER | {"prediction_type": prediction_type}
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler, indent=2))
    (folder / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2))
    return folder


MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_random_weights": True,
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(write_tiny_sd(Path(sys.argv[1])))
