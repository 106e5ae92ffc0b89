"""Scores and gradients of padded batches are those of plain, unpadded transformers (and peft) in every shape of model.

The sampler has the same test in test_sampler.py.
"""

import copy
import logging
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from components.config import LoraConfig, SoftPromptConfig
from components.generation.paths import sampling_path
from components.generation.plain import decode_plainly
from components.generation.sampler import sample
from components.generation.sampling_params import SamplingParams
from components.models import padding
from components.models.adapters import with_fresh_adapter, without_adapter
from components.scoring.batch import Batch
from components.scoring.response_logps import response_logps, token_logps

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14, 15, 16], [5, 6, 7], [3, 2, 31, 4, 5, 6, 7, 8, 9, 10, 11]]
RESPONSES = [[20, 21], [22, 23, 24, 25, 26, 27, 28, 29], [27], [21, 20, 3], [33, 34, 35, 36, 37]]


def by_plain_forward(model: Any, prompt: list[int], response: list[int]) -> torch.Tensor:
    logits = model(input_ids=torch.tensor([prompt + response]), use_cache=False).logits[0, -len(response) - 1 : -1]
    return torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(response).unsqueeze(1)).sum()


def test_response_logps_are_those_of_a_plain_forward(any_model: Any) -> None:
    with torch.no_grad():
        expected = [by_plain_forward(any_model, *row) for row in zip(PROMPTS, RESPONSES, strict=True)]
    scored = response_logps(any_model, 0, PROMPTS, RESPONSES, max_rows=5)
    torch.testing.assert_close(scored, torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_a_plain_forward(any_model: Any) -> None:
    """Of a loss that pulls rows in different directions, as a preference loss does.

    The plain forward in double precision.
    """
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0, 0.5])
    trained = {name: weight for name, weight in any_model.named_parameters() if weight.requires_grad}
    (token_logps(any_model, Batch(PROMPTS, RESPONSES, 0, torch.device("cpu"))).sum(dim=1) @ signs).backward()
    found = {name: weight.grad.double() for name, weight in trained.items() if weight.grad is not None}
    exact = copy.deepcopy(any_model).double()
    exact.zero_grad()
    rows = [by_plain_forward(exact, *row) for row in zip(PROMPTS, RESPONSES, strict=True)]
    torch.stack(rows).mul(signs.double()).sum().backward()
    expected = {name: weight.grad for name, weight in exact.named_parameters() if weight.grad is not None}
    assert found.keys() == expected.keys()
    scale = max(float(gradient.norm()) for gradient in expected.values())
    assert scale > 0
    for name, gradient in expected.items():
        assert float((found[name] - gradient).norm()) < 1e-5 * scale, name


def test_what_a_model_is_made_of_says_how_it_is_padded_and_the_log_says_why_once(
    any_model: Any, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    name = request.node.callspec.params["any_model"]
    with caplog.at_level(logging.WARNING):
        ways = {sampling_path(any_model) for _ in range(2)}
    plainly = name in ("mamba", "prefix on qwen2", "prefix on gemma3")
    assert [path.cache is None for path in ways] == [plainly]
    assert len([line for line in caplog.messages if "transformers' own loop" in line]) == plainly
    assert padding.left_padding_is_exact(any_model) is not name.startswith(("mamba", "prompt", "prefix"))
    if name.startswith(("prompt", "prefix")):
        with without_adapter(any_model) as bare:
            assert padding.left_padding_is_exact(bare), (
                "the reference under fresh virtual tokens is padded as any other model"
            )


def test_plain_decoding_says_what_batches_say(any_model: Any, prompts: list[list[int]]) -> None:
    law = SamplingParams(temperature=1.0, top_p=0.9, top_k=0, max_new_tokens=8, stop_ids=frozenset({1, 4, 9}))
    seeds = [[10 * index, 10 * index + 1] for index in range(len(prompts))]
    found = sample(any_model, prompts, seeds=seeds, law=law, pad_id=0, batch_size=4, on_batch=lambda _: None)
    uniforms = np.stack(
        [np.random.Generator(np.random.Philox(key=seed)).random(8) for several in seeds for seed in several]
    )
    assert [(answer.token_ids, answer.finish_reason) for answer in found] == decode_plainly(
        any_model, prompts, uniforms, law, 0
    )


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_greedy_samples_of_virtual_tokens_are_what_peft_generates(
    kind: str, llama: Any, prompts: list[list[int]]
) -> None:
    model = with_fresh_adapter(
        llama, LoraConfig(), SoftPromptConfig.model_validate({"kind": kind, "num_tokens": 5})
    ).eval()
    law = SamplingParams(temperature=1.0, top_p=1.0, top_k=1, max_new_tokens=8, stop_ids=frozenset())
    found = sample(model, prompts, seeds=[[0]] * len(prompts), law=law, pad_id=0, batch_size=6, on_batch=lambda _: None)
    for prompt, answer in zip(prompts, found, strict=True):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Position ids are not supported")
            ids = torch.tensor([prompt])
            generated = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=8,
                eos_token_id=None,
                pad_token_id=0,
            )
        assert answer.token_ids == generated[0, len(prompt) :].tolist()
