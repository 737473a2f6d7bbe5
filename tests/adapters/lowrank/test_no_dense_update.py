"""Training never builds the update: on a wide layer no tensor as large as the weight appears."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from delora_sd.adapters.lowrank.pack import attach_adapters
from delora_sd.settings import AdapterConfig

WIDTH, ROWS, RANK = 512, 6, 4


class LargestTensor(TorchDispatchMode):
    """Records the largest tensor that any operation returns, forward and backward; the frozen weight aside."""

    def __init__(self, frozen: torch.Tensor):
        super().__init__()
        self.numel = 0
        self._frozen = frozen.untyped_storage().data_ptr()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() != self._frozen:
                self.numel = max(self.numel, tensor.numel())
        return result


class WideLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_q = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.to_q(x)


@pytest.mark.parametrize("init", ["frozen_copy", "mirrored", "zero_up"])
@pytest.mark.parametrize("num_adapters", [1, 3])
def test_no_tensor_of_the_weights_size_in_a_training_step(init: str, num_adapters: int):
    layer = WideLayer()
    config = AdapterConfig(rank=RANK, init=init, target_modules=("to_q",))
    pack = attach_adapters(layer, [config] * num_adapters, seeds=list(range(num_adapters)))
    x = torch.randn(num_adapters * ROWS, WIDTH, requires_grad=True)
    with LargestTensor(layer.to_q.base.weight) as largest:
        pack.make_factors()
        layer(x).square().mean().backward()
    assert 0 < largest.numel <= 2 * num_adapters * WIDTH * max(RANK, ROWS)
    assert largest.numel < WIDTH * WIDTH
