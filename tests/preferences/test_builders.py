"""Pair rules: which responses become a pair, and which never do."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.config import PreferencesConfig
from components.preferences.builders import BUILDERS, Pair, ScoredSample, best_random, best_worst, soft_label


def samples(*pairs: tuple[str, float]) -> list[ScoredSample]:
    return [ScoredSample(number, text, score) for number, (text, score) in enumerate(pairs)]


def names(outcome: object) -> tuple[str, str]:
    assert isinstance(outcome, Pair)
    return outcome.chosen.text, outcome.rejected.text


def test_best_worst_takes_the_extremes_and_the_first_of_equals() -> None:
    outcome = best_worst(samples(("a", 1.0), ("b", 3.0), ("c", 0.5), ("d", 3.0), ("e", 0.5)), 0.0, 0)
    assert names(outcome) == ("b", "c")
    assert isinstance(outcome, Pair)
    assert outcome.margin == 2.5


def test_best_random_takes_every_worse_response_but_no_equal_one() -> None:
    group = samples(("a", 3.0), ("b", 3.0), ("c", 2.0), ("d", 1.0), ("e", 0.0))
    drawn = Counter(names(best_random(group, 0.0, seed)) for seed in range(300))
    assert {chosen for chosen, _ in drawn} == {"a"}
    assert {rejected for _, rejected in drawn} == {"c", "d", "e"}
    assert min(drawn.values()) > 60


def test_best_random_draws_among_those_beyond_the_margin() -> None:
    group = samples(("a", 3.0), ("b", 2.5), ("c", 1.0))
    assert {names(best_random(group, 0.5, seed)) for seed in range(40)} == {("a", "c")}


@pytest.mark.parametrize("rule", sorted(BUILDERS))
@pytest.mark.parametrize(
    ("group", "min_margin", "outcome"),
    [
        (samples(), 0.0, "no_verdict"),
        (samples(("a", 1.0)), 0.0, "no_verdict"),
        (samples(("a", 1.0), ("b", 1.0)), 0.0, "ties"),
        (samples(("a", 0.1 + 0.2), ("b", 0.3)), 0.0, "ties"),
        (samples(("a", 2.0), (" a\n", 1.0)), 0.0, "ties"),
        (samples(("a", 2.0), ("b", 1.5)), 0.5, "below_margin"),
        (samples(("a", 2.0), ("b", 2.0)), 0.5, "ties"),
    ],
)
def test_group_that_gives_no_pair_says_why(rule: str, group: list[ScoredSample], min_margin: float, outcome: str) -> None:
    assert BUILDERS[rule](group, min_margin, 7) == outcome


@given(
    rule=st.sampled_from(sorted(BUILDERS)),
    group=st.lists(st.tuples(st.sampled_from(["a", "b", "c", " b"]), st.floats(-5, 5)), max_size=6),
    min_margin=st.floats(0, 2),
    seed=st.integers(0, 99),
)
def test_pair_has_different_texts_and_more_than_the_margin(rule: str, group: list, min_margin: float, seed: int) -> None:
    scored = samples(*group)
    outcome = BUILDERS[rule](scored, min_margin, seed)
    assert outcome == BUILDERS[rule](scored, min_margin, seed)
    if isinstance(outcome, Pair):
        assert outcome.chosen.text.strip() != outcome.rejected.text.strip()
        assert outcome.margin > max(min_margin, 0)
        assert outcome.chosen.score == max(sample.score for sample in scored)
        assert {outcome.chosen, outcome.rejected} <= set(scored)


def test_soft_label_is_the_bradley_terry_probability() -> None:
    config = PreferencesConfig(soft_labels="bradley_terry", soft_label_scale=2.0)
    assert soft_label(2 * math.log(3), config) == pytest.approx(0.75)
    assert soft_label(1e6, config) == 1.0
    assert soft_label(2 * math.log(3), PreferencesConfig(soft_label_scale=2.0)) == 1.0
