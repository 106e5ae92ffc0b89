"""Which pairs go to a costly judge."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.config import ActiveConfig
from components.preferences.active.choice import Candidate, choose, entropy, farthest, features


def candidates(*pairs: tuple[float, float | None]) -> list[Candidate]:
    return [Candidate(f"text {number}", p, closeness) for number, (p, closeness) in enumerate(pairs)]


def active(budget: int, choose_by: str, shortlist: float = 1.0) -> ActiveConfig:
    return ActiveConfig.model_validate({"budget": budget, "choose_by": choose_by, "shortlist": shortlist})


def test_entropy_is_in_bits() -> None:
    assert [entropy(0.5), entropy(0.25), entropy(1.0), entropy(0.0)] == pytest.approx(
        [1, 2 - 0.75 * math.log2(3), 0, 0]
    )


FOUR = candidates((0.9, 0.1), (0.55, 3.0), (0.6, 0.2), (1.0, None))


@pytest.mark.parametrize(("choose_by", "chosen"), [("disagreement", [1, 2]), ("closeness", [0, 2])])
def test_choice_takes_the_pairs_that_are_least_sure(choose_by: str, chosen: list[int]) -> None:
    assert choose(FOUR, active(2, choose_by), seed=3) == chosen


def test_choice_by_both_takes_the_pair_that_neither_ranks_first() -> None:
    several = candidates((0.5, 9.0), (0.55, 0.2), (0.99, 0.1), (0.95, 8.0))
    assert choose(several, active(1, "both"), seed=1) == [1]


def test_choice_by_closeness_that_is_nowhere_known_is_a_drawing() -> None:
    blind = candidates(*[(0.6, None)] * 20)
    drawn = {tuple(choose(blind, active(5, "closeness"), seed=seed)) for seed in range(10)}
    assert len(drawn) == 10
    by_both = candidates((0.9, None), (0.5, None), (0.99, None))
    assert choose(by_both, active(1, "both"), seed=1) == [1]


def test_choice_takes_p_and_its_mirror_as_equally_unsure() -> None:
    mirrored = candidates(*[(0.6, None), (0.4, None)] * 50)
    sides = [index % 2 for index in choose(mirrored, active(50, "disagreement"), seed=2)]
    assert 10 < sum(sides) < 40


@given(
    ps=st.lists(st.floats(0, 1), max_size=12),
    budget=st.integers(1, 8),
    choose_by=st.sampled_from(["random", "disagreement", "closeness", "both"]),
    shortlist=st.sampled_from([1.0, 1.5, 3.0]),
    seed=st.integers(0, 5),
)
def test_choice_is_within_the_budget_and_repeats(
    ps: list[float], budget: int, choose_by: str, shortlist: float, seed: int
) -> None:
    several = candidates(*[(p, abs(p - 0.3)) for p in ps])
    found = choose(several, active(budget, choose_by, shortlist), seed=seed)
    assert found == sorted(set(found)) == choose(several, active(budget, choose_by, shortlist), seed=seed)
    assert len(found) == min(budget, len(several))


def test_diversity_takes_one_of_several_that_say_the_same() -> None:
    texts = [
        "my kettle is broken",
        "my kettle is broken",
        "my kettle is broken again",
        "where is the parcel",
        "the lamp arrived late",
    ]
    several = [Candidate(text, 0.5 + number / 100, None) for number, text in enumerate(texts)]
    assert choose(several, active(3, "disagreement"), seed=1) == [0, 1, 2]
    assert choose(several, active(3, "disagreement", shortlist=2.0), seed=1) == [0, 3, 4]


def test_diversity_stays_within_the_shortlist() -> None:
    several = [
        *[Candidate(f"same words {number % 2}", 0.5, None) for number in range(4)],
        Candidate("quite another", 0.99, None),
    ]
    assert 4 not in choose(several, active(2, "disagreement", shortlist=2.0), seed=1)


def test_farthest_begins_with_the_first_and_prefers_earlier_ones_among_equals() -> None:
    assert farthest(["a b", "c d", "e f"], 2) == [0, 1]
    assert farthest(["a b", "a b", "c d"], 2) == [0, 2]
    assert farthest(["a", "b"], 5) == [0, 1]
    assert farthest([], 3) == []


def test_features_are_of_unit_length_and_ignore_case_and_punctuation() -> None:
    assert np.linalg.norm(features("The lamp, the lamp!")) == pytest.approx(1)
    assert features("The lamp!") @ features("the LAMP") == pytest.approx(1)
    assert not features("...").any()
