"""A pack is K runs that never touch: same noise, same losses, same adapters as alone."""

import math
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from diffusers import UNet2DConditionModel

from delora_sd.adapters.lowrank.pack import attach_adapters
from delora_sd.diffusion.cache import LatentStats
from delora_sd.settings import AdapterConfig, OptimizerConfig, TrainConfig, TrainingConfig
from delora_sd.training.batches import CellData
from delora_sd.training.loop import run_loop
from delora_sd.training.objective import AdaptedUNet
from delora_sd.training.optimization import build_optimizer
from delora_sd.training.session import Session

SUBJECTS = 3
CASES = [  # method, init, prior weight
    ("delora", "frozen_copy", 0.7),
    ("delora", "frozen_copy", 0.0),
    ("delora", "mirrored", 0.7),
    ("delora", "zero_up", 0.7),
    ("lora", "frozen_copy", 0.7),
    ("dora", "frozen_copy", 0.7),
    ("ether_plus", "frozen_copy", 0.7),
]


class Recorder:
    """Stands where the reporter stands: keeps every loss."""

    stop_requested = False

    def __init__(self):
        self.losses = []

    def after_step(self, report):
        self.losses.append(report.losses.sum(0).tolist())


def make_unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )


def make_cell(subject: int, *, has_class_images: bool) -> CellData:
    generator = torch.Generator().manual_seed(100 + subject)

    def stats(count: int) -> LatentStats:
        mean, std = torch.randn(2, count, 4, 8, 8, generator=generator)
        return LatentStats(mean=mean, std=std.abs() * 0.1)

    embeddings = torch.randn(2, 5, 16, generator=generator)
    return CellData(
        photos=stats(4 + subject),
        instance_embedding=embeddings[0],
        class_images=stats(6) if has_class_images else None,
        class_embedding=embeddings[1] if has_class_images else None,
    )


def make_config(subject: int, method: str, init: str, *, prior_weight: float, num_steps: int) -> TrainConfig:
    return TrainConfig(
        seed=subject,
        adapter=AdapterConfig(method=method, init=init, rank=4, boundary=4.0 + subject),
        optimizer=OptimizerConfig(lr=2e-3 * (subject + 1), clip_norm=0.5 * (subject + 1), warmup_steps=subject * 3),
        training=TrainingConfig(num_steps=num_steps, batch_size=2, prior_weight=prior_weight),
    )


def train_together(configs: list[TrainConfig], cells: list[CellData], *, spoil=None):
    """Runs the real loop; returns (adapters' parameters, losses per step, session)."""
    unet = make_unet()
    pack = attach_adapters(unet, [c.adapter for c in configs], seeds=[c.seed for c in configs])
    if spoil is not None:
        next(pack.adapters[spoil].parameters()).data.fill_(math.nan)
    optimizer = build_optimizer(list(pack.adapters), [c.optimizer for c in configs], 1e-3, torch.device("cpu"))
    session = Session(
        accelerator=Accelerator(cpu=True),
        model=AdaptedUNet(unet, pack),
        adapters=list(pack.adapters),
        optimizer=optimizer,
        configs=configs,
        cells=cells,
        alphas_cumprod=torch.linspace(0.99, 0.01, 100),
        prediction_type="epsilon",
        scales=[1.0] * len(configs),
        diverged={},
    )
    recorder = Recorder()
    run_loop(session, recorder, start_step=0)
    return [list(adapter.parameters()) for adapter in pack.adapters], recorder.losses, session


@pytest.mark.parametrize(("method", "init", "prior_weight"), CASES)
def test_pack_of_three_equals_three_single_runs(method: str, init: str, prior_weight: float):
    configs = [make_config(i, method, init, prior_weight=prior_weight, num_steps=20) for i in range(SUBJECTS)]
    cells = [make_cell(i, has_class_images=prior_weight > 0) for i in range(SUBJECTS)]
    together, losses, _ = train_together(configs, cells)
    for subject in range(SUBJECTS):
        alone, own_losses, _ = train_together([configs[subject]], [cells[subject]])
        for ours, theirs in zip(together[subject], alone[0], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
        torch.testing.assert_close(
            torch.tensor([step[subject] for step in losses]), torch.tensor(own_losses)[:, 0], rtol=1e-5, atol=1e-5
        )


def test_diverged_adapter_changes_nothing_for_the_others():
    configs = [make_config(i, "delora", "mirrored", prior_weight=0.0, num_steps=5) for i in range(SUBJECTS)]
    cells = [make_cell(i, has_class_images=False) for i in range(SUBJECTS)]
    healthy, _, _ = train_together(configs, cells)
    spoiled, _, session = train_together(configs, cells, spoil=1)
    assert list(session.diverged) == [1]
    assert "not finite at step 1" in session.diverged[1]
    for subject in (0, 2):
        for ours, theirs in zip(healthy[subject], spoiled[subject], strict=True):
            assert torch.equal(ours, theirs)


def test_training_stops_when_every_adapter_has_diverged():
    configs = [make_config(0, "delora", "mirrored", prior_weight=0.0, num_steps=5)]
    _, losses, session = train_together(configs, [make_cell(0, has_class_images=False)], spoil=0)
    assert len(losses) == 1 and 0 in session.diverged


@pytest.mark.parametrize("prior_weight", [0.0, 1.0])
def test_gradient_accumulation_gives_the_same_adapter(prior_weight: float):
    config = make_config(0, "delora", "frozen_copy", prior_weight=prior_weight, num_steps=6)
    in_two_parts = replace(config, training=replace(config.training, gradient_accumulation=2))
    cell = make_cell(0, has_class_images=prior_weight > 0)
    whole, whole_losses, _ = train_together([config], [cell])
    parts, part_losses, _ = train_together([in_two_parts], [cell])
    torch.testing.assert_close(torch.tensor(whole_losses), torch.tensor(part_losses), rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(whole[0], parts[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_gradient_checkpointing_gives_the_same_gradients():
    config = make_config(0, "delora", "frozen_copy", prior_weight=0.0, num_steps=1)
    gradients = []
    for is_checkpointed in (False, True):
        unet = make_unet()
        pack = attach_adapters(unet, [config.adapter], seeds=[0])
        if is_checkpointed:
            unet.enable_gradient_checkpointing()
            unet.train()
        generator = torch.Generator().manual_seed(0)
        latents, embeddings = (
            torch.randn(2, 4, 8, 8, generator=generator),
            torch.randn(2, 5, 16, generator=generator),
        )
        AdaptedUNet(unet, pack)(latents, torch.tensor([3, 50]), embeddings).square().mean().backward()
        gradients.append([parameter.grad for parameter in pack.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)
