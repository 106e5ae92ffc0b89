"""Layers that are faster on a CPU, put into a model: its names, weights and numbers stay."""

import copy
import pickle

import pytest
import torch

from components.models.cpu import linear as cpu_linear
from components.models.cpu.layers import speed_up
from components.models.cpu.linear import OneDnnLinear
from components.models.cpu.norm import CpuRmsNorm


def model() -> torch.nn.Module:
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

    made = torch.nn.Sequential(
        torch.nn.Linear(4, 3), Qwen2RMSNorm(3), torch.nn.ReLU(), torch.nn.Linear(3, 2, bias=False)
    )
    torch.nn.init.normal_(made[1].weight)
    return made


@pytest.mark.parametrize("onednn_is_faster", [True, False])
def test_neither_names_nor_weights_nor_numbers_change(monkeypatch: pytest.MonkeyPatch, onednn_is_faster: bool) -> None:
    changed, x = model(), torch.randn(5, 4)
    before, expected = {name: tensor.clone() for name, tensor in changed.state_dict().items()}, changed(x)
    monkeypatch.setattr(cpu_linear, "onednn_is_faster", lambda: onednn_is_faster)
    speed_up(changed)
    linear = OneDnnLinear if onednn_is_faster else torch.nn.Linear
    assert [type(module) for module in changed] == [linear, CpuRmsNorm, torch.nn.ReLU, linear]
    for each in (changed, copy.deepcopy(changed), pickle.loads(pickle.dumps(changed))):
        torch.testing.assert_close(each(x), expected, atol=1e-6, rtol=1e-6)
        assert {name: tensor.tolist() for name, tensor in each.state_dict().items()} == {
            name: t.tolist() for name, t in before.items()
        }


def test_twice_is_as_once() -> None:
    changed, x = model(), torch.randn(5, 4)
    speed_up(changed)
    expected = changed(x)
    speed_up(changed)
    assert torch.equal(changed(x), expected)
    assert changed[1].own_class.__name__ == "Qwen2RMSNorm"
