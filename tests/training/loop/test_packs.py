"""A pack is K runs that never touch: same noise, same losses, same adapters as alone.

AdamW divides a gradient by its own size: where the gradient is all but zero, the rounding of one CPU decides a whole
step. With eps = 1 a step is proportional to its gradient, and rounding stays as small as it is.
"""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from diffusers import UNet2DConditionModel

from delora_sd.adapters.lowrank.pack import attach_adapters
from delora_sd.data.subjects import Subject
from delora_sd.diffusion.cache import LatentStats
from delora_sd.diffusion.families.sd import SD
from delora_sd.diffusion.noise.objective import Ddpm
from delora_sd.files.run_folder import RunFolder
from delora_sd.settings import AdapterConfig, EmaConfig, OptimizerConfig, TrainConfig, TrainingConfig
from delora_sd.training.loop import loop
from delora_sd.training.loop.ema import Ema
from delora_sd.training.loop.loop import Session, run_loop
from delora_sd.training.loop.member import CellData, Member
from delora_sd.training.loop.objective import AdaptedDenoiser
from delora_sd.training.loop.optimization import build_optimizer

SUBJECTS = 3
EPS = torch.finfo(torch.float32).eps
ROUNDING = 2000 * EPS
"""Of a gradient in float32, relative: no sum in this UNet has more than 2000 terms."""
SAME_LOSS = {"rtol": 16 * EPS, "atol": ROUNDING / 100}
"""A float32 mean over 256 errors in some order, of parameters that differ by their rounding."""
NOBODY = Subject(name="nobody", class_word="dog", is_live=True, photos=())
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
        captions=({"tokens": embeddings[0]},),
        class_images=stats(6) if has_class_images else None,
        class_caption={"tokens": embeddings[1]} if has_class_images else None,
    )


def make_config(subject: int, method: str, init: str, *, prior_weight: float, num_steps: int) -> TrainConfig:
    return TrainConfig(
        seed=subject,
        adapter=AdapterConfig(method=method, init=init, rank=4, boundary=4.0 + subject),
        optimizer=OptimizerConfig(
            lr=0.2 * (subject + 1),
            boundary_lr=0.1 * (subject + 1),
            eps=1.0,
            clip_norm=0.5 * (subject + 1),
            warmup_steps=subject * 2,
        ),
        training=TrainingConfig(num_steps=num_steps, batch_size=2, prior_weight=prior_weight),
    )


def train_together(configs: list[TrainConfig], cells: list[CellData], *, spoil=None):
    """Runs the real loop; returns (adapters' parameters, losses per step, session)."""
    unet = make_unet()
    pack = attach_adapters(unet, [c.adapter for c in configs], seeds=[c.seed for c in configs])
    if spoil is not None:
        next(pack.adapters[spoil].parameters()).data.fill_(math.nan)
    members = []
    for position, (config, cell, adapter) in enumerate(zip(configs, cells, pack.adapters, strict=True)):
        member = Member(position=position, run=RunFolder(Path("unwritten")), config=config, subject=NOBODY)
        member.data, member.adapter = cell, adapter
        member.ema = Ema(adapter, config.training.ema) if config.training.ema.decay else None
        members.append(member)
    session = Session(
        accelerator=Accelerator(cpu=True),
        model=AdaptedDenoiser(unet, pack, SD.predict),
        members=members,
        optimizer=build_optimizer([(each.adapter, each.config.optimizer) for each in members], torch.device("cpu")),
        objective=Ddpm(alphas_cumprod=torch.linspace(0.99, 0.01, 100), prediction_type="epsilon"),
    )
    recorder = Recorder()
    run_loop(session, recorder, start_step=0)
    return [list(adapter.parameters()) for adapter in pack.adapters], recorder.losses, session


def untrained(config: TrainConfig, cell: CellData) -> list[torch.Tensor]:
    return train_together([replace(config, training=replace(config.training, num_steps=0))], [cell])[0][0]


def assert_same_training(ours: list[torch.Tensor], theirs: list[torch.Tensor], start: list[torch.Tensor]) -> None:
    """Both went the same way from `start`, up to the rounding of gradients and of the sums that add the steps."""
    way = max((ended - began).abs().max().item() for ended, began in zip(theirs, start, strict=True))
    largest = max(ended.abs().max().item() for ended in theirs)
    assert way > 1e-3
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=ROUNDING * way + 10 * EPS * largest)


def column(rows: list[list[float]], index: int) -> torch.Tensor:
    return torch.tensor([row[index] for row in rows])


@pytest.mark.parametrize(("method", "init", "prior_weight"), CASES)
def test_pack_of_three_equals_three_single_runs(method: str, init: str, prior_weight: float):
    configs = [make_config(i, method, init, prior_weight=prior_weight, num_steps=8) for i in range(SUBJECTS)]
    cells = [make_cell(i, has_class_images=prior_weight > 0) for i in range(SUBJECTS)]
    together, losses, _ = train_together(configs, cells)
    for subject in range(SUBJECTS):
        alone, own_losses, _ = train_together([configs[subject]], [cells[subject]])
        assert_same_training(together[subject], alone[0], untrained(configs[subject], cells[subject]))
        torch.testing.assert_close(column(losses, subject), column(own_losses, 0), **SAME_LOSS)


@pytest.mark.parametrize("prior_weight", [0.7, 0.0])
def test_a_pack_with_and_without_masks_and_captions_equals_single_runs(prior_weight: float):
    configs = [make_config(i, "delora", "frozen_copy", prior_weight=prior_weight, num_steps=6) for i in range(SUBJECTS)]
    cells = [make_cell(i, has_class_images=prior_weight > 0) for i in range(SUBJECTS)]
    weights = torch.rand(len(cells[1].photos.mean), 1, 8, 8, generator=torch.Generator().manual_seed(5))
    ones = torch.ones(len(cells[2].photos.mean), 1, 8, 8)
    captions = torch.randn(len(cells[0].photos.mean), 5, 16, generator=torch.Generator().manual_seed(6))
    captioned = replace(cells[0], captions=tuple({"tokens": caption} for caption in captions))
    masked = [captioned, replace(cells[1], photo_weights=weights), replace(cells[2], photo_weights=ones)]
    together, losses, _ = train_together(configs, masked)
    for subject in range(SUBJECTS):
        alone, own_losses, _ = train_together([configs[subject]], [masked[subject]])
        assert_same_training(together[subject], alone[0], untrained(configs[subject], cells[subject]))
        torch.testing.assert_close(column(losses, subject), column(own_losses, 0), **SAME_LOSS)
    unmasked = [train_together([configs[i]], [cells[i]]) for i in (1, 2)]
    assert column(losses, 1)[0] < 0.8 * column(unmasked[0][1], 0)[0], "half of the subject's loss is left out"
    alone, own_losses, _ = train_together([configs[2]], [masked[2]])
    assert own_losses == unmasked[1][1], "an all-white mask changes no bit"
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(alone[0], unmasked[1][0][0], strict=True))


@torch.no_grad()
def averages(session: Session) -> list[list[torch.Tensor]]:
    """Every member's average, as the parameters it would be saved as; [] without one."""
    found = []
    for member in session.members:
        found.append([])
        if member.ema is not None:
            with member.ema._in_place():
                found[-1] = [parameter.clone() for parameter in member.adapter.parameters()]
    return found


def test_a_pack_with_and_without_averages_equals_single_runs():
    plain = [make_config(i, "delora", "frozen_copy", prior_weight=0.0, num_steps=6) for i in range(SUBJECTS)]
    cells = [make_cell(i, has_class_images=False) for i in range(SUBJECTS)]
    ema = [EmaConfig(), EmaConfig(decay=0.9), EmaConfig(decay=0.5, warmup=False)]
    configs = [replace(each, training=replace(each.training, ema=ema[position])) for position, each in enumerate(plain)]
    together, _, session = train_together(configs, cells)
    without, _, _ = train_together(plain, cells)
    for ours, theirs in zip(together, without, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True)), "it is only looked at"
    own = averages(session)
    assert own[0] == []
    for subject in (1, 2):
        _, _, alone = train_together([configs[subject]], [cells[subject]])
        assert_same_training(own[subject], averages(alone)[0], untrained(configs[subject], cells[subject]))


def test_diverged_adapter_changes_nothing_for_the_others():
    configs = [make_config(i, "delora", "mirrored", prior_weight=0.0, num_steps=5) for i in range(SUBJECTS)]
    cells = [make_cell(i, has_class_images=False) for i in range(SUBJECTS)]
    healthy, _, _ = train_together(configs, cells)
    spoiled, _, session = train_together(configs, cells, spoil=1)
    assert [member.position for member in session.live] == [0, 2]
    assert "not finite at step 1" in session.members[1].left
    for subject in (0, 2):
        for ours, theirs in zip(healthy[subject], spoiled[subject], strict=True):
            assert torch.equal(ours, theirs)


def test_every_step_is_drawn_once_in_order_and_one_ahead(monkeypatch: pytest.MonkeyPatch):
    genuine, drawn = loop.draw_step, []

    def draw(cell: CellData, objective, *, step: int, **named):
        drawn.append(step)
        return genuine(cell, objective, step=step, **named)

    monkeypatch.setattr(loop, "draw_step", draw)
    config = make_config(0, "lora", "frozen_copy", prior_weight=0.0, num_steps=4)
    train_together([config], [make_cell(0, has_class_images=False)])
    assert drawn == [0, 1, 2, 3, 4]


def test_training_stops_when_every_adapter_has_diverged():
    configs = [make_config(0, "delora", "mirrored", prior_weight=0.0, num_steps=5)]
    _, losses, session = train_together(configs, [make_cell(0, has_class_images=False)], spoil=0)
    assert len(losses) == 1 and not session.live


@pytest.mark.parametrize("prior_weight", [0.0, 1.0])
def test_gradient_accumulation_gives_the_same_adapter(prior_weight: float):
    config = make_config(0, "delora", "frozen_copy", prior_weight=prior_weight, num_steps=6)
    in_two_parts = replace(config, training=replace(config.training, gradient_accumulation=2))
    cell = make_cell(0, has_class_images=prior_weight > 0)
    whole, whole_losses, _ = train_together([config], [cell])
    parts, part_losses, _ = train_together([in_two_parts], [cell])
    torch.testing.assert_close(column(whole_losses, 0), column(part_losses, 0), **SAME_LOSS)
    assert_same_training(parts[0], whole[0], untrained(config, cell))


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
        model = AdaptedDenoiser(unet, pack, SD.predict)
        model(latents, torch.tensor([3, 50]), {"tokens": embeddings}).square().mean().backward()
        gradients.append([parameter.grad for parameter in pack.parameters()])
    largest = max(gradient.abs().max().item() for gradient in gradients[0])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=ROUNDING * largest)
