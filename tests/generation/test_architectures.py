"""Scores and gradients of padded batches are those of plain, unpadded transformers (and peft) in every shape of model.

The sampler has the same test in test_sampler.py.
"""

import logging
from typing import Any

import pytest
import torch

from components import padding
from components.adapters import without_adapter
from components.dpo.scoring import Batch, response_logps, token_logps

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14, 15, 16], [5, 6, 7], [3, 2, 31, 4, 5, 6, 7, 8, 9, 10, 11]]
RESPONSES = [[20, 21], [22, 23, 24, 25, 26, 27, 28, 29], [27], [21, 20, 3], [33, 34, 35, 36, 37]]


def by_plain_forward(model: Any, prompt: list[int], response: list[int]) -> torch.Tensor:
    logits = model(input_ids=torch.tensor([prompt + response]), use_cache=False).logits[0, -len(response) - 1 : -1]
    return torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(response).unsqueeze(1)).sum()


def test_response_logps_are_those_of_a_plain_forward(any_model: Any) -> None:
    with torch.no_grad():
        expected = [by_plain_forward(any_model, *row) for row in zip(PROMPTS, RESPONSES, strict=True)]
    scored = response_logps(any_model, 0, PROMPTS, RESPONSES, batch_size=5)
    torch.testing.assert_close(scored, torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_a_plain_forward(any_model: Any) -> None:
    """Of a loss that pulls rows in different directions, as a preference loss does."""
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0, 0.5])
    trained = {name: weight for name, weight in any_model.named_parameters() if weight.requires_grad}
    (token_logps(any_model, Batch(PROMPTS, RESPONSES, 0, torch.device("cpu"))).sum(dim=1) @ signs).backward()
    found = {name: weight.grad.clone() for name, weight in trained.items() if weight.grad is not None}
    any_model.zero_grad()
    torch.stack([by_plain_forward(any_model, *row) for row in zip(PROMPTS, RESPONSES, strict=True)]).mul(signs).sum().backward()
    expected = {name: weight.grad for name, weight in trained.items() if weight.grad is not None}
    assert found.keys() == expected.keys()
    scale = max(float(gradient.norm()) for gradient in expected.values())
    assert scale > 0
    for name, gradient in expected.items():
        assert float((found[name] - gradient).norm()) < 1e-5 * scale, name


def test_left_padding_is_refused_by_what_a_model_is_made_of_and_said_once(
    any_model: Any, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    name = request.node.callspec.params["any_model"]
    padding._say_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        exact = {padding.left_padding_is_exact(any_model) for _ in range(2)}
    plainly = name.startswith(("mamba", "prompt", "prefix"))
    assert exact == {not plainly}
    assert len(caplog.messages) == plainly
    if plainly and name != "mamba":
        with without_adapter(any_model) as bare:
            assert padding.left_padding_is_exact(bare), "the reference under a fresh adapter is padded as any other model"
