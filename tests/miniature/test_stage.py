"""A training stage spends its minutes, survives a kill, and Muon takes orthogonal steps in any memory format."""

import pytest
import torch
from torch import nn

from delora_sd.miniature.build.train.muon import Muon, as_matrix, orthogonalise
from delora_sd.miniature.build.train.stage import StagePlan, train_stage


def small_problem() -> tuple[nn.Module, Muon]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    return model, Muon([model], matrix_lr=0.02, other_lr=1e-3)


def loss_step(model: nn.Module):
    generator = torch.Generator().manual_seed(1)
    inputs, goal = torch.randn(64, 8, generator=generator), torch.randn(64, 4, generator=generator)

    def step(number: int, progress: float) -> dict[str, float]:
        loss = (model(inputs) - goal).square().mean()
        loss.backward()
        numbers.append(number)
        return {"loss": float(loss.detach())}

    numbers: list[int] = []
    return step, numbers


def test_a_stage_resumes_where_its_checkpoint_stopped(tmp_path):
    model, optimizer = small_problem()
    step, first = loss_step(model)
    train_stage(StagePlan(name="a", folder=tmp_path, minutes=0.005), {"m": model}, optimizer, step=step, say=print)
    other, other_optimizer = small_problem()
    step, second = loss_step(other)
    train_stage(StagePlan(name="a", folder=tmp_path, minutes=0.01), {"m": other}, other_optimizer, step=step, say=print)
    assert second[0] == first[-1] + 1
    moments = [state["momentum"] for state in other_optimizer.state.values() if "momentum" in state]
    assert len(moments) == 2 and all(moment.abs().sum() > 0 for moment in moments)


def test_a_finished_stage_does_not_train_again(tmp_path):
    model, optimizer = small_problem()
    step, _ = loss_step(model)
    plan = StagePlan(name="a", folder=tmp_path, minutes=0.002)
    train_stage(plan, {"m": model}, optimizer, step=step, say=print)
    trained = [p.clone() for p in model.parameters()]
    again, again_optimizer = small_problem()
    step, numbers = loss_step(again)
    train_stage(plan, {"m": again}, again_optimizer, step=step, say=print)
    assert numbers == [] and all(torch.equal(a, b) for a, b in zip(trained, again.parameters(), strict=True))


@pytest.mark.parametrize("shape", [(16, 48), (48, 16), (32, 32)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape):
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    values = torch.linalg.svdvals(orthogonalise(matrices).float())
    assert values.min() > 0.5 and values.max() < 1.35


def test_a_kernel_is_viewed_as_a_matrix_in_both_memory_formats():
    kernel = torch.randn(8, 4, 3, 3)
    for tensor in (kernel, kernel.contiguous(memory_format=torch.channels_last)):
        matrix = as_matrix(tensor)
        assert matrix.shape == (8, 36)
        matrix.zero_()
        assert tensor.abs().sum() == 0


def test_muon_lowers_a_loss():
    model, optimizer = small_problem()
    step, _ = loss_step(model)
    losses = []
    for number in range(60):
        optimizer.zero_grad()
        losses.append(step(number, 0.0)["loss"])
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
