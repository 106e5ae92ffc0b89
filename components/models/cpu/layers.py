"""Makes a model's layers the ones that are faster on a CPU. Weights, their names and what is saved stay the same."""

import torch

from components.models.cpu import norm
from components.models.cpu.linear import OneDnnLinear, caches_primitives


def speed_up(model: torch.nn.Module) -> None:
    """Makes linear layers on a CPU oneDNN's where that pays or they are already, and RMS norms one function each."""
    for module in model.modules():
        if type(module) is torch.nn.Linear and caches_primitives(module.weight.device, module.weight.dtype):
            module.__class__ = OneDnnLinear
        else:
            norm.adopt(module)
