"""What holds for any pairs.

Padding, batching and sharing out over ranks change no number, and no pair is lost or counted twice.
"""

from collections import Counter
from functools import cache

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from components.dpo.batches import Layout, Pair, Plan
from components.dpo.reference import score_pairs
from components.scoring.batch import Batch
from components.scoring.response_logps import response_logps, token_scores

VOCABULARY = 19
PAD = 0
TOKENS = st.integers(0, VOCABULARY - 1)
"""The padding token is an ordinary token as well, as it is in models that pad with their end token."""
PROMPT, ANSWER = st.lists(TOKENS, min_size=1, max_size=9), st.lists(TOKENS, min_size=1, max_size=7)
PAIR = st.builds(Pair, PROMPT, ANSWER, ANSWER, st.floats(0, 1))
CLOSE = {"atol": 2e-5, "rtol": 0}


@cache
def model() -> GPT2LMHeadModel:
    """Learned positions, which rotary ones would not need to be right.

    Weights far from their start, so that positions differ.
    """
    torch.manual_seed(3)
    network = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_positions=32, n_embd=16, n_layer=2, n_head=2)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


@torch.no_grad()
def alone(prompt: list[int], answer: list[int]) -> list[float]:
    """Log-probability of each token of an answer, from a forward over this row without padding, mask or position."""
    logits = model()(input_ids=torch.tensor([prompt + answer])).logits[0].double()
    logps = torch.log_softmax(logits, dim=-1)
    return [float(logps[len(prompt) - 1 + place, token]) for place, token in enumerate(answer)]


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(PROMPT, ANSWER), min_size=1, max_size=6))
@example(rows=[([PAD], [PAD])])
@example(rows=[([PAD] * 9, [PAD]), ([1], [PAD] * 7)])
def test_token_logps_any_padding_equal_the_row_alone(rows: list[tuple[list[int], list[int]]]) -> None:
    prompts, answers = [prompt for prompt, _ in rows], [answer for _, answer in rows]
    with torch.no_grad():
        logps = token_scores(model(), Batch(prompts, answers, PAD, torch.device("cpu"))).logps
    for row, (prompt, answer) in enumerate(rows):
        torch.testing.assert_close(logps[row, : len(answer)], torch.tensor(alone(prompt, answer)), **CLOSE)
        assert torch.equal(logps[row, len(answer) :], torch.zeros(logps.shape[1] - len(answer)))


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(PROMPT, ANSWER), min_size=1, max_size=7), batch_size=st.integers(1, 9))
def test_response_logps_any_batch_size_keeps_the_order(
    rows: list[tuple[list[int], list[int]]], batch_size: int
) -> None:
    scored = response_logps(
        model(), PAD, [prompt for prompt, _ in rows], [answer for _, answer in rows], max_rows=batch_size
    )
    torch.testing.assert_close(scored, torch.tensor([sum(alone(*row)) for row in rows]), atol=1e-4, rtol=0)


@settings(max_examples=40, deadline=None)
@given(prompt=PROMPT, prefix=ANSWER, chosen=st.lists(TOKENS, max_size=4), rejected=st.lists(TOKENS, max_size=4))
def test_token_logps_of_a_prefix_that_both_answers_share_are_equal(
    prompt: list[int], prefix: list[int], chosen: list[int], rejected: list[int]
) -> None:
    batch = Batch([prompt, prompt], [prefix + chosen, prefix + rejected], PAD, torch.device("cpu"))
    with torch.no_grad():
        first, second = token_scores(model(), batch).logps[:, : len(prefix)]
    torch.testing.assert_close(first, second, **CLOSE)


@settings(max_examples=40, deadline=None)
@given(pairs=st.lists(PAIR, min_size=1, max_size=5), world_size=st.integers(1, 7), batch_size=st.integers(1, 4))
def test_score_pairs_shared_out_over_any_ranks_sum_to_the_whole(
    pairs: list[Pair], world_size: int, batch_size: int
) -> None:
    """Each rank leaves zeros where others score, and their sum is what the ranks exchange."""
    reduce, torch.distributed.all_reduce = torch.distributed.all_reduce, lambda *_: None  # type: ignore[assignment]
    try:
        parts = [
            score_pairs(model(), pairs, PAD, max_tokens=64, max_rows=batch_size, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
    finally:
        torch.distributed.all_reduce = reduce
    for name in ("chosen", "rejected"):
        total = torch.stack([getattr(part, name) for part in parts]).sum(dim=0)
        expected = torch.tensor([sum(alone(pair.prompt, getattr(pair, name))) for pair in pairs])
        torch.testing.assert_close(total, expected, atol=1e-4, rtol=0)


@given(
    num_pairs=st.integers(1, 40),
    pairs_per_step=st.integers(1, 16),
    max_tokens=st.integers(1, 90),
    max_pairs=st.integers(0, 20),
    world_size=st.integers(1, 9),
    epochs=st.integers(1, 3),
)
@example(num_pairs=1, pairs_per_step=16, max_tokens=9, max_pairs=20, world_size=9, epochs=1)
def test_epochs_over_any_ranks_train_on_every_pair_exactly_once_each(
    num_pairs: int, pairs_per_step: int, max_tokens: int, max_pairs: int, world_size: int, epochs: int
) -> None:
    plan = Plan(["t"] * num_pairs, pairs_per_step, epochs, seed=1)
    layouts = [Layout(range(1, num_pairs + 1), max_tokens, max_pairs, rank, world_size) for rank in range(world_size)]
    seen: Counter[int] = Counter()
    for _, pairs in plan.steps(0):
        slots = [slot for layout in layouts for slots in layout.micro_batches(pairs) for slot in slots]
        counted = [slot for slot in slots if slot.weight]
        seen.update(slot.pair for slot in counted)
        assert sorted(slot.pair for slot in counted) == sorted(pairs)
        assert len({slot.weight for slot in counted}) == 1
        assert sum(slot.weight for slot in slots) == pytest.approx(world_size)
        assert {slot.pair for slot in slots} == set(pairs), "what keeps ranks in step is of the same step"
    assert seen == dict.fromkeys(range(num_pairs), epochs)
