"""The flowing miniature: FLUX.2's classes, small; its transformer and text encoder trained together to predict v."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from torch import Tensor, nn
from transformers import Qwen2Tokenizer

from delora_sd.miniature.build.data.dataset import Pictures
from delora_sd.miniature.build.train.muon import Muon
from delora_sd.miniature.build.train.precision import computing
from delora_sd.miniature.build.train.stage import StagePlan, train_stage
from delora_sd.miniature.build.train.vae import encode_latents
from delora_sd.miniature.build.train.weights import update_average, write_pipeline
from delora_sd.miniature.flow_text import (
    CONDITIONING_LAYERS,
    MAX_TOKENS,
    TEXT_WIDTH,
    new_text_encoder,
    new_tokenizer,
    settle_identifiers,
    token_ids,
)

CAPTION_DROP = 0.1
"""Teaches the empty caption that classifier-free guidance needs."""


@dataclass(frozen=True, kw_only=True)
class FlowTrainingSet:
    """Normalised latents in patches (pictures, tokens, channels), token ids (pictures, captions, 18)."""

    latents: Tensor
    tokens: Tensor


def flow_vae(vae: AutoencoderKL, latents: Tensor) -> AutoencoderKLFlux2:
    """The other miniature's autoencoder in FLUX.2's class, its batch norm filled from `latents` (n, channels, h, w)."""
    kept = ("down_block_types", "up_block_types", "block_out_channels", "layers_per_block", "latent_channels")
    kept += ("norm_num_groups", "sample_size", "mid_block_add_attention", "use_quant_conv", "use_post_quant_conv")
    flow = AutoencoderKLFlux2(**{name: vae.config[name] for name in kept})
    missing, unexpected = flow.load_state_dict(vae.state_dict(), strict=False)
    assert not unexpected and all(name.startswith("bn.") for name in missing)
    patches = Flux2KleinPipeline._patchify_latents(latents)
    flow.bn.running_mean.copy_(patches.mean(dim=(0, 2, 3)))
    flow.bn.running_var.copy_(patches.var(dim=(0, 2, 3)))
    return flow.eval()


def flow_training_set(pictures: Pictures, vae: AutoencoderKL) -> tuple[FlowTrainingSet, AutoencoderKLFlux2]:
    """Pictures encoded once, captions tokenised once; the autoencoder in FLUX.2's class."""
    raw = encode_latents(vae, pictures.pixels)
    flow = flow_vae(vae, raw)
    std = (flow.bn.running_var + flow.config.batch_norm_eps).sqrt().view(1, -1, 1, 1)
    latents = (Flux2KleinPipeline._patchify_latents(raw) - flow.bn.running_mean.view(1, -1, 1, 1)) / std
    captions = [caption for record in pictures.records for caption in record.captions]
    tokens = token_ids(new_tokenizer(), captions).view(len(raw), -1, MAX_TOKENS).short()
    return FlowTrainingSet(latents=latents.flatten(2).mT.contiguous().half(), tokens=tokens), flow


def new_transformer(channels: int) -> Flux2Transformer2DModel:
    """An untrained transformer: 2 double blocks, 4 single ones, 128 wide; gates and output start at zero."""
    model = Flux2Transformer2DModel(
        in_channels=channels,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=len(CONDITIONING_LAYERS) * TEXT_WIDTH,
        timestep_guidance_channels=128,
        mlp_ratio=2.0,
        axes_dims_rope=(8, 8, 8, 8),
        guidance_embeds=False,
    )
    for layer in (
        model.double_stream_modulation_img.linear,
        model.double_stream_modulation_txt.linear,
        model.single_stream_modulation.linear,
        model.norm_out.linear,
        model.proj_out,
    ):
        nn.init.zeros_(layer.weight)
    return model


def new_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Sigmas from 1 to 0, a little towards noise: klein's own shift is fitted to images of 256 tokens and more."""
    return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=False, shift=1.5)


def new_flow_model(channels: int, tokenizer: Qwen2Tokenizer) -> nn.ModuleDict:
    """The two modules that learn together, under the names a pipeline gives them."""
    torch.manual_seed(0)
    transformer = new_transformer(channels)
    # The backward pass of PyTorch's fused attention is several times slower than plain matmuls on a CPU.
    transformer.set_attention_backend("_native_math")
    text_encoder = new_text_encoder(tokenizer)
    text_encoder.set_attn_implementation("eager")
    return nn.ModuleDict({"transformer": transformer, "text_encoder": text_encoder})


def conditioning(text_encoder: nn.Module, tokens: Tensor, pad_id: int) -> Tensor:
    """The stacked hidden states of token ids (batch, length), (batch, length, 3 x width)."""
    states = text_encoder.model(tokens, attention_mask=(tokens != pad_id).long(), output_hidden_states=True)
    return torch.cat([states.hidden_states[layer] for layer in CONDITIONING_LAYERS], dim=-1)


def train_flow(
    data: FlowTrainingSet,
    folder: Path,
    *,
    minutes: float,
    batch: int,
    device: torch.device,
    say: Callable[[str], None],
) -> None:
    """Trains until the budget is spent; the result is the checkpoint's averaged weights."""
    tokenizer = new_tokenizer()
    model = new_flow_model(data.latents.shape[2], tokenizer).to(device)
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = Muon([model], matrix_lr=0.02, other_lr=2e-3)
    side = int(data.latents.shape[1] ** 0.5)
    image_ids = Flux2KleinPipeline._prepare_latent_ids(torch.zeros(1, 1, side, side)).to(device)
    text_ids = Flux2KleinPipeline._prepare_text_ids(torch.zeros(1, MAX_TOKENS, 1)).to(device)
    empty = token_ids(tokenizer, [""])[0]

    def step(number: int, progress: float) -> dict[str, float]:
        rng = torch.Generator().manual_seed(number)
        update_average(average, model, number)
        rows = torch.randint(len(data.latents), (batch,), generator=rng)
        tokens = data.tokens[rows, torch.randint(data.tokens.shape[1], (batch,), generator=rng)].long()
        tokens[torch.rand(batch, generator=rng) < CAPTION_DROP] = empty
        clean = data.latents[rows].float().to(device)
        noise = torch.randn(clean.shape, generator=rng).to(device)
        sigmas = torch.sigmoid(torch.randn(batch, generator=rng)).to(device)  # logit-normal, Esser et al. 2024
        noisy = torch.lerp(clean, noise, sigmas.view(-1, 1, 1))
        with computing(device):
            context = conditioning(model["text_encoder"], tokens.to(device), tokenizer.pad_token_id)
            guess = model["transformer"](noisy, context, sigmas, image_ids, text_ids, return_dict=False)[0]
        loss = (guess.float() - (noise - clean)).square().mean()
        loss.backward()
        return {"loss": float(loss.detach())}

    train_stage(
        StagePlan(name="flow", folder=folder, minutes=minutes),
        {"model": model, "average": average},
        optimizer,
        step=step,
        say=say,
    )


def export_flow(vae: AutoencoderKLFlux2, weights: dict[str, Tensor], folder: Path) -> None:
    """Writes a Flux2KleinPipeline folder in fp16 from averaged weights `{transformer.*, text_encoder.*}`."""
    tokenizer = new_tokenizer()
    model = new_flow_model(weights["transformer.x_embedder.weight"].shape[1], tokenizer)
    model.load_state_dict(weights)
    settle_identifiers(model["text_encoder"], tokenizer)
    pipeline = Flux2KleinPipeline(
        vae=copy.deepcopy(vae),
        text_encoder=model["text_encoder"],
        tokenizer=tokenizer,
        transformer=model["transformer"],
        scheduler=new_scheduler(),
    )
    write_pipeline(pipeline, folder)


def sample_flow(
    pipeline: Flux2KleinPipeline, prompts: list[str], *, seed: int, steps: int = 20, guidance: float = 4.0
) -> np.ndarray:
    """One picture per prompt, uint8 (prompts, side, side, 3); picture k depends on seed + k alone."""
    side = pipeline.vae.config.sample_size
    parts = []
    for start in range(0, len(prompts), 50):
        some = prompts[start : start + 50]
        out = pipeline(
            prompt=some,
            height=side,
            width=side,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(seed + start + index) for index in range(len(some))],
            max_sequence_length=MAX_TOKENS,
            text_encoder_out_layers=CONDITIONING_LAYERS,
            output_type="np",
        )
        parts.append((out.images * 255).round().astype(np.uint8))
    return np.concatenate(parts)
