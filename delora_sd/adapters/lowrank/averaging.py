"""What is averaged of an adapter over its training: parameters whose size means something, directions at length one.

DeLoRA divides every row of A and every column of B by its own length, which training lets grow: averaged as they are,
late steps would weigh more by their length alone, and under a frozen or decayed length less. The mean of unit vectors
is the mean direction; its own length is divided away again. Boundaries and magnitudes are averaged as they are.
"""

import torch.nn.functional as F
from torch import Tensor

from delora_sd.adapters.lowrank.factors import MIN_NORM
from delora_sd.adapters.lowrank.methods import METHODS


def averaged_form(method: str, name: str, value: Tensor) -> Tensor:
    """Returns the tensor as it enters an average: vectors whose length means nothing at length one.

    Args:
        method: Any method; those that are not of the family are averaged as they are.
        name: Of the tensor in the method, such as "A".
        value: With any leading axes.
    """
    axis = METHODS[method].directions.get(name) if method in METHODS else None
    return value if axis is None else F.normalize(value, dim=axis, eps=MIN_NORM)
