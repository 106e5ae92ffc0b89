from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.dpo.batches import Layout, Plan


@given(
    num_pairs=st.integers(1, 60), pairs_per_step=st.integers(1, 20), epochs=st.integers(1, 3), seed=st.integers(0, 99)
)
def test_plan_any_shape_takes_every_pair_once_an_epoch(
    num_pairs: int, pairs_per_step: int, epochs: int, seed: int
) -> None:
    plan = Plan(["t"] * num_pairs, pairs_per_step, epochs, seed)
    steps = list(plan.steps(0))
    assert len(steps) == plan.num_steps
    assert Counter(pair for _, pairs in steps for pair in pairs) == dict.fromkeys(range(num_pairs), epochs)
    sizes = {len(pairs) for _, pairs in steps}
    assert max(sizes) <= pairs_per_step
    assert max(sizes) - min(sizes) <= 1, "a step of few pairs moves the weights as far as one of many"


def test_plan_one_pair_too_many_halves_the_steps_instead_of_making_one_of_a_pair() -> None:
    assert [len(pairs) for _, pairs in Plan(["t"] * 65, 64, 1, seed=0).steps(0)] == [33, 32]


def test_plan_from_the_middle_continues_the_same_order() -> None:
    plan = Plan(["t"] * 23, 4, 3, seed=5)
    assert list(plan.steps(0))[7:] == list(plan.steps(7))


def test_plan_epochs_differ_in_order() -> None:
    plan = Plan(["t"] * 40, 40, 2, seed=1)
    (_, first), (_, second) = plan.steps(0)
    assert first != second


LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=24)


@given(
    lengths=LENGTHS,
    max_tokens=st.integers(1, 120),
    max_pairs=st.integers(0, 9),
    world_size=st.integers(1, 5),
    padded=st.booleans(),
)
def test_layout_any_split_weighs_every_pair_alike_and_keeps_to_the_limits(
    lengths: list[int], max_tokens: int, max_pairs: int, world_size: int, *, padded: bool
) -> None:
    total: Counter[int] = Counter()
    ranks = [
        Layout(lengths, max_tokens, max_pairs, rank, world_size, padded).micro_batches(range(len(lengths)))
        for rank in range(world_size)
    ]
    assert len({len(micro_batches) for micro_batches in ranks}) == 1, "a rank would wait for the others"
    for slots in (slots for micro_batches in ranks for slots in micro_batches):
        assert slots
        assert len(slots) <= (max_pairs or len(lengths))
        own = [lengths[slot.pair] for slot in slots]
        assert len(slots) == 1 or (len(own) * max(own) if padded else sum(own)) <= max_tokens
        for slot in slots:
            total[slot.pair] += slot.weight / world_size
    assert all(total[pair] == pytest.approx(1 / len(lengths)) for pair in range(len(lengths)))


@given(lengths=LENGTHS, world_size=st.integers(1, 5))
def test_layout_gives_ranks_as_many_tokens_but_for_one_pair(lengths: list[int], world_size: int) -> None:
    ranks = [
        Layout(lengths, 10_000, 0, rank, world_size).micro_batches(range(len(lengths))) for rank in range(world_size)
    ]
    loads = [
        sum(lengths[slot.pair] for slots in micro_batches for slot in slots if slot.weight) for micro_batches in ranks
    ]
    assert max(loads) - min(loads) <= max(lengths)


def test_layout_of_padded_rows_puts_pairs_of_like_length_together() -> None:
    micro_batches = Layout([50, 4, 48, 5], 100, padded=True).micro_batches(range(4))
    assert [[slot.pair for slot in slots] for slots in micro_batches] == [[0, 2], [1, 3]]
    assert Layout([50, 4, 48, 5], 100, padded=True).most_pairs(4) == 2, "4, 5 and 48, each padded to 48, are too many"


def test_layout_keeps_the_step_in_its_order_where_it_is_one_micro_batch() -> None:
    (slots,) = Layout([5, 9, 1, 7], 22).micro_batches([3, 0, 1, 2])
    assert [slot.pair for slot in slots] == [3, 0, 1, 2]


def test_layout_pair_that_is_longer_than_the_limit_is_alone() -> None:
    several = Layout([50, 4, 4], 10).micro_batches([0, 1, 2])
    assert sorted(sorted(slot.pair for slot in slots) for slots in several) == [[0], [1, 2]]
