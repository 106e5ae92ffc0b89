"""Each kind of preference gets its weight and its share of an epoch."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.dpo.mixing import combined_weights, mixed_order, tag_weights


def test_tag_weights_keep_a_mean_of_one() -> None:
    weights = tag_weights(["a", "a", "b", "c"], {"a": 3.0, "b": 0.0})
    assert weights == pytest.approx([12 / 7, 12 / 7, 0.0, 4 / 7])
    assert sum(weights) == pytest.approx(4)


def test_tag_weights_left_out_are_all_one() -> None:
    assert tag_weights(["a", "b"], {}) == [1.0, 1.0]


@pytest.mark.parametrize("named", [{"nothing": 2.0}, {"a": 0.0, "b": 0.0}])
def test_tag_weights_that_cannot_be_used_are_refused(named: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="tag_weights"):
        tag_weights(["a", "b"], named)


def test_combined_weights_multiply_and_keep_a_mean_of_one() -> None:
    # 1.5 * 1, 0.5 * 1, 0.5 * 0.25: their mean is 2.125 / 3.
    assert combined_weights([1.5, 0.5, 0.5], [1.0, 1.0, 0.25]) == pytest.approx(
        [4.5 / 2.125, 1.5 / 2.125, 0.375 / 2.125]
    )
    assert combined_weights([1.0, 1.0], [1.0, 1.0]) == [1.0, 1.0]


def test_mixed_order_gives_a_small_tag_its_share() -> None:
    tags = ["safety"] * 10 + ["helpfulness"] * 90
    drawn = Counter(tags[index] for index in mixed_order(tags, {"safety": 0.4}, seed=1))
    assert drawn == {"safety": 40, "helpfulness": 60}
    repeats = Counter(index for index in mixed_order(tags, {"safety": 0.4}, seed=1) if index < 10)
    assert set(repeats.values()) == {4}


def test_mixed_order_without_shares_takes_every_pair_once() -> None:
    assert sorted(mixed_order(["a", "b", "a"], {}, seed=3)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("shares", "message"),
    [({"a": 0.7, "b": 0.7}, "adds up to 1.4"), ({"a": 0.5, "b": 0.3}, "adds up to 0.8"), ({"x": 1}, "names x")],
)
def test_mixed_order_of_shares_that_cannot_be_met_is_refused(shares: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mixed_order(["a", "b"], shares, seed=0)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=60), st.floats(0, 1), st.integers(0, 9))
def test_mixed_order_has_as_many_places_as_pairs_and_the_share_to_one_place(
    tags: list[str], share: float, seed: int
) -> None:
    shares = {"a": share if len(set(tags)) > 1 else 1.0} if "a" in tags else {}
    order = mixed_order(tags, shares, seed=seed)
    assert len(order) == len(tags)
    assert order == mixed_order(tags, shares, seed=seed)
    counted = Counter(tags[index] for index in order)
    for tag, wanted in shares.items():
        assert abs(counted[tag] - wanted * len(tags)) <= 1
