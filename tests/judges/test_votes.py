"""A jury's votes as probabilities: values worked by hand, symmetries, and the effect of a planted bad juror."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.judges.votes import (
    PRIOR_RIGHT,
    PRIOR_WRONG,
    VOTES,
    PairKey,
    aggregate_votes,
    bradley_terry,
    dawid_skene,
    majority,
    vote_of,
)

JURORS = ["ann", "ben", "cat"]
EQUAL = dict.fromkeys(JURORS, 1.0)
PAIR = PairKey("p", 0, 1)
METHODS = sorted(VOTES)


def split(votes: list[float]) -> dict[PairKey, dict[str, float]]:
    return {PAIR: dict(zip(JURORS, votes, strict=False))}


def panel(
    rates: dict[str, float], pairs: int, *, seed: int, ties: float = 0.0
) -> tuple[dict[PairKey, dict[str, float]], dict[PairKey, bool]]:
    """Return votes of jurors with these accuracies, each on every pair, and the truths."""
    rng = random.Random(seed)
    truths = {PairKey(f"p{number}", 0, 1): rng.random() < 0.5 for number in range(pairs)}
    votes = {
        pair: {
            juror: 0.5 if rng.random() < ties else float(truth == (rng.random() < rate))
            for juror, rate in rates.items()
        }
        for pair, truth in truths.items()
    }
    return votes, truths


def share_right(probabilities: dict[PairKey, float], truths: dict[PairKey, bool]) -> float:
    return sum((probabilities[pair] > 0.5) == truth for pair, truth in truths.items()) / len(truths)


@pytest.mark.parametrize(
    ("votes", "weights", "p"),
    [
        ([1, 1, 1], [1, 1, 1], 4 / 5),
        ([1, 1, 0], [1, 1, 1], 3 / 5),
        ([1, 0, 0.5], [1, 1, 1], 1 / 2),
        ([1, 1, 0], [1, 1, 3], 3 / 7),
        ([0.75, 0], [2, 1], 2.5 / 5),
        ([1], [0.5], 1.5 / 2.5),
    ],
)
def test_majority_is_the_weighted_share_after_one_vote_for_each_side(
    votes: list[float], weights: list[float], p: float
) -> None:
    probabilities = majority(split(votes), dict(zip(JURORS, weights, strict=False)))
    assert probabilities == {PAIR: pytest.approx(p)}


def test_bradley_terry_of_two_responses_is_the_majority() -> None:
    for votes in ([1, 1, 1], [1, 0.5, 0], [0.8, 0, 0]):
        assert bradley_terry(split(votes), EQUAL)[PAIR] == pytest.approx(majority(split(votes), EQUAL)[PAIR], abs=0.002)


def test_bradley_terry_strengths_are_those_of_a_loop_of_its_own() -> None:
    wins = {(0, 1): 3.0, (1, 0): 0.0, (0, 2): 2.0, (2, 0): 1.0, (1, 2): 2.5, (2, 1): 0.5}
    votes = {
        PairKey("p", a, b): dict(zip(JURORS, [*cast], strict=True))
        for (a, b), cast in {(0, 1): (1, 1, 1), (0, 2): (1, 0, 1), (1, 2): (1, 0.5, 1)}.items()
    }
    strength = [0.0, 0.0, 0.0]
    for _ in range(20_000):
        slope = [0.0, 0.0, 0.0]
        for (a, b), count in wins.items():
            short = (count + 1) / (1 + math.exp(strength[a] - strength[b]))
            slope[a], slope[b] = slope[a] + short, slope[b] - short
        strength = [value + 0.05 * change for value, change in zip(strength, slope, strict=True)]
    probabilities = bradley_terry(votes, EQUAL)
    assert probabilities == {
        pair: pytest.approx(1 / (1 + math.exp(strength[pair.second] - strength[pair.first])), abs=1e-4)
        for pair in votes
    }


def test_bradley_terry_learns_of_a_pair_from_the_others() -> None:
    votes = {PairKey("p", 0, 1): {"ann": 1.0}, PairKey("p", 1, 2): {"ann": 1.0}, PairKey("p", 0, 2): {"ann": 0.5}}
    probabilities = bradley_terry(votes, EQUAL)
    assert probabilities[PairKey("p", 0, 2)] > 0.6
    apart = {PairKey("p", 0, 1): {"ann": 1.0}, PairKey("q", 1, 2): {"ann": 1.0}, PairKey("r", 0, 2): {"ann": 0.5}}
    assert bradley_terry(apart, EQUAL)[PairKey("r", 0, 2)] == pytest.approx(0.5)


def test_dawid_skene_of_one_pair_is_the_prior_reliability() -> None:
    odds = (PRIOR_RIGHT / PRIOR_WRONG) ** 3
    p = dawid_skene(split([1, 1, 1]), EQUAL)[PAIR]
    assert odds / (1 + odds) - 0.01 < p < 0.999


def test_dawid_skene_trusts_the_reliable_juror_against_two_that_guess() -> None:
    votes, truths = panel({"ann": 0.95, "ben": 0.65, "cat": 0.65}, 400, seed=3)
    against = {pair for pair, cast in votes.items() if cast["ben"] == cast["cat"] != cast["ann"]}
    probabilities = dawid_skene(votes, EQUAL)
    assert len(against) > 50
    assert all((probabilities[pair] > 0.5) == (votes[pair]["ann"] == 1) for pair in against)
    assert share_right(probabilities, truths) > share_right(majority(votes, EQUAL), truths) + 0.08


def test_dawid_skene_is_a_loop_of_its_own_over_one_reliability_a_juror() -> None:
    votes, _ = panel({"ann": 0.9, "ben": 0.75, "cat": 0.6}, 150, seed=6)
    right = dict.fromkeys(JURORS, 0.8)
    for _ in range(2000):
        posterior = {}
        for pair, cast in votes.items():
            evidence = sum(
                (1 if vote else -1) * math.log(right[juror] / (1 - right[juror])) for juror, vote in cast.items()
            )
            posterior[pair] = 1 / (1 + math.exp(-evidence))
        for juror in JURORS:
            agreed = sum(p if votes[pair][juror] else 1 - p for pair, p in posterior.items())
            right[juror] = (agreed + PRIOR_RIGHT) / (len(votes) + PRIOR_RIGHT + PRIOR_WRONG)
    assert dawid_skene(votes, EQUAL) == {pair: pytest.approx(p, abs=0.01) for pair, p in posterior.items()}


def test_dawid_skene_reads_a_juror_who_is_always_wrong_the_other_way_round() -> None:
    votes, truths = panel({"ann": 0.85, "ben": 0.85, "cat": 0.0}, 300, seed=4)
    probabilities = dawid_skene(votes, EQUAL)
    assert share_right(probabilities, truths) > 0.95
    split_votes = {pair: cast for pair, cast in votes.items() if cast["ann"] != cast["ben"]}
    assert all((probabilities[pair] > 0.5) == (cast["cat"] == 0) for pair, cast in split_votes.items())


@pytest.mark.parametrize("pairs", [1, 2, 5])
def test_dawid_skene_of_few_pairs_keeps_right_and_wrong_where_most_jurors_put_them(pairs: int) -> None:
    votes = {PairKey(f"p{number}", 0, 1): {"ann": 1.0, "ben": 1.0, "cat": 0.0} for number in range(pairs)}
    assert all(0.5 < p < 1 for p in dawid_skene(votes, EQUAL).values())


def test_dawid_skene_takes_ties_as_an_answer_of_their_own() -> None:
    votes, _ = panel({"ann": 0.9, "ben": 0.8, "cat": 0.8}, 200, seed=5, ties=0.2)
    probabilities = dawid_skene(votes, EQUAL)
    for pair, cast in votes.items():
        if set(cast.values()) == {0.5}:
            assert probabilities[pair] == pytest.approx(0.5, abs=1e-6)
        if set(cast.values()) == {1.0}:
            assert probabilities[pair] > 0.9
    assert dawid_skene(split([0.5, 0.5, 0.5]), EQUAL)[PAIR] == pytest.approx(0.5)


def test_votes_without_a_pair_give_no_probability() -> None:
    assert [method({}, EQUAL) for method in VOTES.values()] == [{}, {}, {}]


some_votes = st.dictionaries(
    st.tuples(st.sampled_from("pq"), st.sampled_from([(0, 1), (0, 2), (1, 2)])).map(
        lambda item: PairKey(item[0], *item[1])
    ),
    st.dictionaries(st.sampled_from(JURORS), st.sampled_from([0.0, 0.5, 1.0]), min_size=1),
    min_size=1,
    max_size=5,
)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=15, deadline=None)
@given(votes=some_votes, data=st.data())
def test_probability_swaps_with_the_pair_and_ignores_the_jurors_order(
    method: str, votes: dict[PairKey, dict[str, float]], data: st.DataObject
) -> None:
    weights = EQUAL if method == "dawid_skene" else {"ann": 1.0, "ben": 2.0, "cat": 0.5}
    probabilities = VOTES[method](votes, weights)
    assert probabilities.keys() == votes.keys()
    assert all(0 < p < 1 for p in probabilities.values())
    turned = data.draw(st.sets(st.sampled_from(sorted(votes))))

    def turn(pair: PairKey) -> PairKey:
        return PairKey(pair.prompt_id, pair.second, pair.first) if pair in turned else pair

    swapped = {
        turn(pair): {juror: 1 - vote if pair in turned else vote for juror, vote in reversed(cast.items())}
        for pair, cast in reversed(votes.items())
    }
    again = VOTES[method](swapped, weights)
    assert {pair: again[turn(pair)] for pair in votes} == {
        pair: pytest.approx(1 - p if pair in turned else p, abs=1e-6) for pair, p in probabilities.items()
    }


def test_vote_of_equal_scores_is_a_tie() -> None:
    assert [vote_of(2.0, 1.0), vote_of(1.0, 2.0), vote_of(1.0, 1.0), vote_of(0.1 + 0.2, 0.3)] == [1.0, 0.0, 0.5, 0.5]


@pytest.mark.parametrize("method", METHODS)
def test_tied_pair_is_exactly_one_half_whatever_the_iterations_leave(method: str) -> None:
    tied = {PairKey("p", 0, 1): {"ann": 0.5}, PairKey("p", 1, 2): {"ann": 0.5, "ben": 0.5}}
    others, _ = panel({"ann": 0.8, "ben": 0.8}, 30, seed=7)
    probabilities = aggregate_votes(method, tied | others, EQUAL)
    assert [probabilities[pair] for pair in tied] == [0.5, 0.5]
