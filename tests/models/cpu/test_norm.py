"""An RMS norm as one function against the models' own, and which modules become one."""

import importlib
from typing import Any

import pytest
import torch

from components.models.cpu.norm import CpuRmsNorm, adopt, rms_norm

SIZE = 24
RMS_NORMS = (
    "llama.LlamaRMSNorm",
    "qwen2.Qwen2RMSNorm",
    "qwen3.Qwen3RMSNorm",
    "mistral.MistralRMSNorm",
    "phi3.Phi3RMSNorm",
)


def own(name: str, **more: int) -> Any:
    """A module of a transformers model, with weights that are not all alike."""
    package, kind = name.split(".")
    made = getattr(importlib.import_module(f"transformers.models.{package}.modeling_{package}"), kind)(
        SIZE, eps=1e-5, **more
    )
    torch.manual_seed(2)
    torch.nn.init.normal_(made.weight)
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("shape", [(SIZE,), (1, SIZE), (2, 7, SIZE), (0, SIZE)])
@pytest.mark.parametrize("name", RMS_NORMS)
def test_numbers_and_gradients_are_the_models_own(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    plain, adopted = own(name).to(dtype), own(name).to(dtype)
    adopt(adopted)
    assert type(adopted) is CpuRmsNorm
    x, gradient = torch.randn(shape, dtype=dtype) * 3, torch.randn(shape, dtype=dtype)
    results = []
    for module in (plain, adopted):
        hidden = x.clone().requires_grad_()
        out = module(hidden)
        out.backward(gradient)
        results.append((out.detach(), hidden.grad, module.weight.grad))
    # In bf16 two roundings of a number that differs in fp32's last place may differ by one.
    within = {"atol": 1e-6, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.02, "rtol": 2**-6}
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, **within)


def test_gradients_are_right_to_the_last_place() -> None:
    torch.manual_seed(3)
    hidden, weight = torch.randn(4, 5, 6).requires_grad_(), torch.randn(6).requires_grad_()
    gradient = torch.randn(4, 5, 6)
    rms_norm(hidden, weight, 1e-6).backward(gradient)
    exact_hidden, exact_weight = (one.detach().double().requires_grad_() for one in (hidden, weight))
    scales = (exact_hidden.square().mean(dim=-1, keepdim=True) + 1e-6).rsqrt()
    (exact_weight * exact_hidden * scales).backward(gradient.double())
    torch.testing.assert_close(hidden.grad.double(), exact_hidden.grad, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(weight.grad.double(), exact_weight.grad, atol=1e-6, rtol=1e-5)


def test_a_frozen_weight_has_no_gradient() -> None:
    module = own("llama.LlamaRMSNorm").requires_grad_(False)
    adopt(module)
    hidden = torch.randn(3, SIZE).requires_grad_()
    module(hidden).sum().backward()
    assert module.weight.grad is None
    assert hidden.grad is not None


def test_two_precisions_are_left_to_the_models_own() -> None:
    plain, adopted = own("llama.LlamaRMSNorm"), own("llama.LlamaRMSNorm")
    adopt(adopted)
    x = torch.randn(3, SIZE, dtype=torch.bfloat16)
    assert torch.equal(adopted(x), plain(x))
    assert adopted(x).dtype == plain(x).dtype


@pytest.mark.parametrize(
    "module",
    [
        torch.nn.LayerNorm(SIZE),
        torch.nn.RMSNorm(SIZE),
        torch.nn.Linear(SIZE, SIZE),
        own("gemma.GemmaRMSNorm"),
        own("mamba2.MambaRMSNormGated", group_size=SIZE),
        own("qwen3_next.Qwen3NextRMSNormGated"),
    ],
    ids=lambda module: type(module).__name__,
)
def test_what_computes_something_else_stays(module: torch.nn.Module) -> None:
    kind = type(module)
    adopt(module)
    assert type(module) is kind
