"""The objective of a reward model's step in packed rows gives the losses and gradients of the padded one."""

import random

import pytest
import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig

from components.dpo.batches import Pair, Slot
from components.dpo.objective import StepValues
from components.reward_model import objective as objective_module
from components.reward_model.objective import RewardObjective, sharing_prompts
from components.scoring.packed.rewards import longest_rewarded
from tests.scoring.packed import architectures
from tests.scoring.packed.architectures import SMALL

PAD = 3


def conversations(number: int) -> list[Pair]:
    """Pairs of conversations that share 0 to 20 tokens; some end with padding tokens, as with `pad = end of turn`."""
    rng = random.Random(7)

    def tokens(most: int) -> list[int]:
        return [rng.randint(5, 39) for _ in range(rng.randint(1, most))]

    pairs = []
    for index in range(number):
        shared = tokens(20) if index % 4 else []
        end = [PAD] * (index % 3)
        pairs.append(Pair([], shared + tokens(12) + end, shared + tokens(12) + end, rng.choice([1.0, 0.7, 0.0])))
    return pairs


def build(dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    config = LlamaConfig(**SMALL, num_labels=1, pad_token_id=PAD)
    model = architectures.build(AutoModelForSequenceClassification, config).to(dtype)
    torch.nn.init.normal_(model.score.weight, std=0.5, generator=torch.Generator().manual_seed(2))
    return model


def gradients(model: torch.nn.Module, pairs: list[Pair]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    slots = [Slot(index, 1 / len(pairs)) for index in range(len(pairs))]
    result = RewardObjective(pairs, pad_id=PAD).micro_batch(model, slots, StepValues())
    result.loss.backward()
    return result.sums, {
        name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None
    }


def test_sharing_prompts_is_the_longest_common_beginning_without_the_padding_behind() -> None:
    shared = sharing_prompts(
        [Pair([], [5, 6, 7, 8, PAD, PAD], [5, 6, 9], 0.7, "a", "safety", 0.5), Pair([], [5, 6], [5, 6, 7], 1.0)],
        pad_id=PAD,
    )
    assert shared[0] == Pair([5, 6], [7, 8], [9], 0.7, "a", "safety", 0.5)
    assert shared[0].num_tokens == 5
    # Each answer keeps a token, at which its reward is read.
    assert shared[1] == Pair([5], [6], [6, 7], 1.0)


def test_packed_step_is_the_padded_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model, twin = build(), build()
    pairs = conversations(9)
    assert longest_rewarded(model) >= 64
    packed_rows = 0
    kept = objective_module.packed_rewards

    def counting(*arguments: object) -> torch.Tensor:
        nonlocal packed_rows
        packed_rows += 1
        return kept(*arguments)

    monkeypatch.setattr(objective_module, "packed_rewards", counting)
    with_prompts = [pair for pair in sharing_prompts(pairs, pad_id=PAD) if pair.prompt]
    assert 4 < len(with_prompts) < len(pairs)
    sums, found = gradients(model, with_prompts)
    assert packed_rows == 1
    whole = [Pair([], pair.prompt + pair.chosen, pair.prompt + pair.rejected, pair.p) for pair in with_prompts]
    expected_sums, expected = gradients(twin, whole)
    assert packed_rows == 1
    torch.testing.assert_close(sums, expected_sums, atol=1e-5, rtol=1e-5)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert (gradient - expected[name]).norm() <= 1e-4 * expected[name].norm() + 1e-7, name


def test_conversations_that_begin_differently_are_padded() -> None:
    model, twin = build(), build()
    pairs = conversations(9)
    sums, found = gradients(model, sharing_prompts(pairs, pad_id=PAD))
    expected_sums, expected = gradients(twin, pairs)
    torch.testing.assert_close(sums, expected_sums, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found["score.weight"], expected["score.weight"], atol=1e-5, rtol=1e-4)
