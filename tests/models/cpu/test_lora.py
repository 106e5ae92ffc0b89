"""The fast LoRA layer computes what peft's own does, and steps aside where it would not."""

from typing import Any

import pytest
import torch
from peft.tuners.lora import Linear
from transformers import LlamaConfig, LlamaForCausalLM

from components.config import LoraConfig, SoftPromptConfig
from components.models.adapters import with_fresh_adapter
from components.models.cpu.lora import CpuLoraLinear
from components.models.dropout import AdapterDropout

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 64}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "attention_bias": True}


def adapted(dtype: torch.dtype, **settings: Any) -> Any:
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS)).to(dtype).eval()
    model = with_fresh_adapter(model, LoraConfig(rank=4, alpha=12, **settings), SoftPromptConfig())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name or name.endswith("bias"):
                weight.normal_(std=0.3)
    return model


def layers(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, Linear)]


def outputs(model: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the logits of two rows, and the gradients of a sum of them."""
    ids = torch.arange(26).view(2, 13)
    model.zero_grad()
    logits = model(input_ids=ids).logits
    (logits.float() * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
    return logits.detach().float(), {
        name: weight.grad.float() for name, weight in model.named_parameters() if weight.grad is not None
    }


def as_peft_does_it(model: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    fast = layers(model)
    for layer in fast:
        layer.__class__ = Linear
    try:
        return outputs(model)
    finally:
        for layer in fast:
            layer.__class__ = CpuLoraLinear


def distance(ours: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> float:
    assert ours.keys() == exact.keys()
    return max(float((ours[name] - gradient).norm() / gradient.norm()) for name, gradient in exact.items())


def test_logits_and_gradients_are_peft_s(monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted(torch.float32)
    assert {type(layer) for layer in layers(model)} == {CpuLoraLinear}
    expected, gradients = as_peft_does_it(model)
    assert gradients
    assert all("lora_" in name for name in gradients)
    monkeypatch.setattr(Linear, "forward", lambda *_: pytest.fail("it computed as peft does"))
    logits, own = outputs(model)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert distance(own, gradients) < 1e-5


def test_bf16_rounds_no_more_than_peft() -> None:
    model = adapted(torch.bfloat16)
    exact, exact_gradients = outputs(adapted(torch.bfloat16).float())
    (ours, own), (theirs, other) = outputs(model), as_peft_does_it(model)
    assert (ours - exact).norm() < 1.2 * (theirs - exact).norm()
    assert distance(own, exact_gradients) < 1.2 * distance(other, exact_gradients)


def test_fresh_adapter_changes_nothing_and_a_disabled_one_neither() -> None:
    torch.manual_seed(1)
    base = LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS)).eval()
    ids = torch.arange(26).view(2, 13)
    with torch.no_grad():
        expected = base(input_ids=ids).logits
        model = with_fresh_adapter(base, LoraConfig(rank=4), SoftPromptConfig())
        assert torch.equal(model(input_ids=ids).logits, expected)
        for layer in layers(model):
            layer.lora_B["default"].weight.normal_()
        assert not torch.allclose(model(input_ids=ids).logits, expected)
        with model.disable_adapter():
            assert torch.equal(model(input_ids=ids).logits, expected)
        learnt = model(input_ids=ids).logits
        torch.testing.assert_close(model.merge_and_unload()(input_ids=ids).logits, learnt, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["dora", "dropout"])
def test_what_it_does_not_know_is_peft_s(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, used = adapted(torch.float32, kind="dora" if kind == "dora" else "lora"), []
    own = Linear.forward
    monkeypatch.setattr(Linear, "forward", lambda *words, **more: used.append(1) or own(*words, **more))
    if kind == "dropout":
        with AdapterDropout(model, 0.5, seed=1, rank=0).masks(0, 0):
            outputs(model)
    else:
        outputs(model)
    assert len(used) == len(layers(model))
