"""Claims about shapes are executed in every module that makes them: tests/conftest.py installs jaxtyping's hook."""

import importlib

import pytest
import torch
from jaxtyping import TypeCheckError

from shaped_modules import shaped_modules


def test_a_wrong_shape_stops_at_the_door_of_the_formula():
    """A B of another rank than A."""
    from delora_sd.adapters.lowrank.factors import lora_factors

    with pytest.raises(TypeCheckError):
        lora_factors(torch.zeros(4, 12), torch.zeros(9, 3), alpha=1.0)


def test_every_module_with_shapes_was_loaded_through_the_hook():
    loaders = {name: type(importlib.import_module(name).__spec__.loader).__module__ for name in shaped_modules()}
    assert len(loaders) > 10
    assert {name: loader for name, loader in loaders.items() if not loader.startswith("jaxtyping")} == {}
