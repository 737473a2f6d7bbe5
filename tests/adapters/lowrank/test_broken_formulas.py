"""The formula tests catch broken formulas: each slip that is easily made is made here, and must be noticed."""

from types import SimpleNamespace

import pytest
import test_adapter_formulas as formula_tests
import torch
import torch.nn.functional as F

from delora_sd.adapters.lowrank import factors
from delora_sd.adapters.lowrank.factors import MIN_NORM, Factors

REAL = SimpleNamespace(**{name: getattr(factors, name) for name in ("without_start", "delora_factors")})


def no_normalisation(A, B, boundary, weight_norm):
    return Factors(A * weight_norm.unsqueeze(-2), B * (boundary / A.shape[-2])[..., None, None])


def swapped_norms(A, B, boundary, weight_norm):
    """Each A by the norm of another term's B: of its own term's, the product would be the same."""
    a_norms, b_norms = A.norm(dim=-1).clamp_min(MIN_NORM), B.norm(dim=-2).clamp_min(MIN_NORM)
    down = A / b_norms.flip(-1).unsqueeze(-1) * weight_norm.unsqueeze(-2)
    return Factors(down, B / a_norms.unsqueeze(-2) * (boundary / A.shape[-2])[..., None, None])


def norms_over_the_rank(A, B, boundary, weight_norm):
    down = F.normalize(A, dim=-2, eps=MIN_NORM) * weight_norm.unsqueeze(-2)
    return Factors(down, F.normalize(B, dim=-1, eps=MIN_NORM) * (boundary / A.shape[-2])[..., None, None])


def no_division_by_the_rank(A, B, boundary, weight_norm):
    return REAL.delora_factors(A, B, boundary * A.shape[-2], weight_norm)


def no_weight_norm(A, B, boundary, weight_norm):
    return REAL.delora_factors(A, B, boundary, torch.ones_like(weight_norm))


def start_added(live, start_down, start_up):
    return REAL.without_start(live, start_down, -start_up)


def start_forgotten(live, start_down, start_up):
    return live


BROKEN = [
    ("delora_factors", no_normalisation),
    ("delora_factors", swapped_norms),
    ("delora_factors", norms_over_the_rank),
    ("delora_factors", no_division_by_the_rank),
    ("delora_factors", no_weight_norm),
    ("without_start", start_added),
    ("without_start", start_forgotten),
]


@pytest.mark.parametrize(("name", "slip"), BROKEN, ids=[slip.__name__ for _, slip in BROKEN])
def test_a_slip_in_deloras_formula_is_noticed(name, slip, monkeypatch):
    monkeypatch.setattr(factors, name, slip)
    with pytest.raises(AssertionError):
        formula_tests.test_factors_equal_the_papers_equation("delora", "frozen_copy", "column", "linear")


@pytest.mark.parametrize("slip", [start_added, start_forgotten])
def test_a_start_away_from_the_base_model_is_noticed(slip, monkeypatch):
    monkeypatch.setattr(factors, "without_start", slip)
    with pytest.raises(AssertionError):
        formula_tests.test_training_starts_at_the_base_model_where_claimed(
            "delora", "frozen_copy", "column", ("to_q", "to_out.0")
        )
