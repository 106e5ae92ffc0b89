from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.dpo.batches import Layout, Plan


@given(num_pairs=st.integers(1, 60), pairs_per_step=st.integers(1, 20), epochs=st.integers(1, 3), seed=st.integers(0, 99))
def test_plan_any_shape_takes_every_pair_once_an_epoch(num_pairs: int, pairs_per_step: int, epochs: int, seed: int) -> None:
    plan = Plan(["t"] * num_pairs, pairs_per_step, epochs, seed)
    steps = list(plan.steps(0))
    assert len(steps) == plan.num_steps
    assert Counter(pair for _, pairs in steps for pair in pairs) == dict.fromkeys(range(num_pairs), epochs)
    assert all(len(pairs) <= pairs_per_step for _, pairs in steps)


def test_plan_from_the_middle_continues_the_same_order() -> None:
    plan = Plan(["t"] * 23, 4, 3, seed=5)
    assert list(plan.steps(0))[7:] == list(plan.steps(7))


def test_plan_epochs_differ_in_order() -> None:
    plan = Plan(["t"] * 40, 40, 2, seed=1)
    (_, first), (_, second) = plan.steps(0)
    assert first != second


@given(num_pairs=st.integers(1, 24), pairs_per_step=st.integers(1, 24), micro_batch_pairs=st.integers(1, 24), world_size=st.integers(1, 5))
def test_layout_any_split_weighs_every_pair_alike(num_pairs: int, pairs_per_step: int, micro_batch_pairs: int, world_size: int) -> None:
    pairs = list(range(min(num_pairs, pairs_per_step)))
    total: Counter[int] = Counter()
    shapes = set()
    for rank in range(world_size):
        layout = Layout.fit(pairs_per_step=pairs_per_step, micro_batch_pairs=micro_batch_pairs, rank=rank, world_size=world_size)
        micro_batches = layout.micro_batches(pairs)
        shapes.add(tuple(len(slots) for slots in micro_batches))
        assert len(micro_batches) == layout.accumulation
        for slots in micro_batches:
            for slot in slots:
                total[slot.pair] += slot.weight / (layout.accumulation * world_size)
    assert len(shapes) == 1
    assert set(next(iter(shapes))) == {layout.micro_batch_pairs}
    assert all(total[pair] == pytest.approx(1 / len(pairs)) for pair in pairs)
