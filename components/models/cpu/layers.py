"""Replaces a model's layers by faster ones for a CPU. Weights, their names and saved files stay the same."""

import torch

from components.models.cpu import norm
from components.models.cpu.linear import OneDnnLinear, caches_primitives


def speed_up(model: torch.nn.Module) -> None:
    """Replace linear layers on a CPU by oneDNN's if oneDNN computes them, and RMS norms by one function each."""
    for module in model.modules():
        if type(module) is torch.nn.Linear and caches_primitives(module.weight.device, module.weight.dtype):
            module.__class__ = OneDnnLinear
        else:
            norm.adopt(module)
