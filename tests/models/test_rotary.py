"""With long and dynamic RoPE, sampling, scoring and gradients of a row are those of the row alone.

transformers takes the frequencies of the longest row for all rows: 132 of 153 sampled tokens were others here.
"""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from components.config import LoraConfig, SoftPromptConfig
from components.generation.paths import sampling_path
from components.generation.sampler import sample
from components.generation.sampling_params import SamplingParams
from components.models.adapters import with_fresh_adapter
from components.models.rotary import UNLIMITED, make_rows_independent, original_context, steady_tokens
from components.scoring.batch import Batch
from components.scoring.response_logps import response_logps, scoring_path, token_logps

CONTEXT = 16
SMALL: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
LENGTHS = (3, 20, 14, 14, 30, 16, 17, 8)
"""Prompts on both sides of the original context, and some whose responses cross it."""
CPU = torch.device("cpu")


def longrope() -> Any:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0, 3.0, 2.0, 5.0],
        "original_max_position_embeddings": CONTEXT,
    }
    sizes = {"max_position_embeddings": 128, "original_max_position_embeddings": CONTEXT}
    return Phi3ForCausalLM(Phi3Config(**SMALL, **sizes, rope_parameters=rope)).eval()


def dynamic() -> Any:
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    return LlamaForCausalLM(LlamaConfig(**SMALL, max_position_embeddings=CONTEXT, rope_parameters=rope)).eval()


MODELS: dict[str, Callable[[], Any]] = {"longrope": longrope, "dynamic": dynamic}


def fresh(name: str) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return MODELS[name]()


def drawn(lengths: tuple[int, ...]) -> list[list[int]]:
    chance = random.Random(3)
    return [[chance.randrange(2, 60) for _ in range(length)] for length in lengths]


def plain_logits(name: str, ids: list[int]) -> torch.Tensor:
    """Return the logits of a row by transformers alone; a new model remembers no longer row."""
    logits: torch.Tensor = fresh(name)(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return logits


@pytest.mark.parametrize("name", MODELS)
def test_samples_on_both_sides_of_the_context_are_those_of_one_row(name: str) -> None:
    model, prompts = fresh(name), drawn(LENGTHS)
    law = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=6, stop_ids=frozenset({1, 5}))
    seeds = [[10 * place, 10 * place + 1] for place in range(len(prompts))]
    answers = sample(model, prompts, seeds=seeds, law=law, pad_id=0, batch_size=0, on_batch=lambda _: None)
    assert sampling_path(model).way == "shared prompts"
    for answer in answers:
        uniforms = np.random.Generator(np.random.Philox(key=seeds[answer.prompt_index][answer.sample_index])).random(6)
        ids = list(prompts[answer.prompt_index])
        for token, uniform in zip(answer.token_ids, uniforms, strict=False):
            weights = torch.softmax(plain_logits(name, ids)[-1].double(), dim=-1).detach().numpy()
            assert token == int(np.searchsorted(np.cumsum(weights), uniform, side="right"))
            ids.append(token)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("virtual", [0, 3])
def test_scores_and_gradients_on_both_sides_of_the_context_are_those_of_one_row(name: str, virtual: int) -> None:
    model, prompts, responses = fresh(name), drawn(LENGTHS), drawn((3, 2, 10, 1, 3, 5, 2, 9))
    if virtual:
        model = with_fresh_adapter(model, LoraConfig(), SoftPromptConfig(kind="prompt", num_tokens=virtual)).eval()
    together = response_logps(model, 0, prompts, responses)
    token_logps(model, Batch(prompts, responses, 0, CPU)).sum().backward()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    gradients = [weight.grad.clone() for weight in trained]
    model.zero_grad()
    for place, row in enumerate(zip(prompts, responses, strict=True)):
        alone = token_logps(model, Batch([row[0]], [row[1]], 0, CPU)).sum()
        alone.backward()
        assert float(together[place]) == pytest.approx(float(alone.detach()), abs=1e-4)
        if not virtual:
            logps = plain_logits(name, row[0] + row[1]).log_softmax(dim=-1)[len(row[0]) - 1 : -1]
            expected = logps.gather(1, torch.tensor(row[1]).unsqueeze(1)).sum()
            assert float(alone.detach()) == pytest.approx(float(expected.detach()), abs=1e-4)
    for weight, gradient in zip(trained, gradients, strict=True):
        torch.testing.assert_close(weight.grad, gradient, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_rows_within_the_context_are_packed_and_longer_ones_say_why_not(name: str) -> None:
    model = fresh(name)
    assert scoring_path(model, CONTEXT) == (True, None)
    reason = f"{type(model).__name__} has positions that change beyond 16 tokens, and rows are up to 17 tokens long"
    assert scoring_path(model, CONTEXT + 1) == (False, reason)


def test_steady_tokens_ends_where_the_frequencies_change() -> None:
    assert [steady_tokens(fresh("longrope"), length) for length in (3, 16, 17, 90)] == [14, 1, UNLIMITED, UNLIMITED]
    assert [steady_tokens(fresh("dynamic"), length) for length in (3, 16, 17, 90)] == [14, 1, 1, 1]
    plain = LlamaForCausalLM(LlamaConfig(**SMALL))
    make_rows_independent(plain)
    assert original_context(plain) == UNLIMITED
    assert type(plain.model.rotary_emb).forward is type(LlamaForCausalLM(LlamaConfig(**SMALL)).model.rotary_emb).forward
