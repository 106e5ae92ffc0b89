"""Agreement of people: worked values of the literature, and what is no decision."""

import pytest

from components.statistics.agreement import (
    agreement_among,
    agreement_with,
    cohen_kappa,
    krippendorff_alpha,
)


def test_krippendorff_alpha_of_two_observers_is_that_of_the_worked_example() -> None:
    # Krippendorff (2011), "Computing Krippendorff's alpha-reliability", example A: binary, two observers.
    one, other = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    votes = {str(n): {"a": float(x), "b": float(y)} for n, (x, y) in enumerate(zip(one, other, strict=True))}
    alpha = krippendorff_alpha(votes)
    assert alpha == pytest.approx(0.095, abs=5e-4)
    lone = {"z": {"a": 1.0}}
    assert krippendorff_alpha(votes | lone) == pytest.approx(alpha)


def test_krippendorff_alpha_without_variation_is_none() -> None:
    assert krippendorff_alpha({"p": {"a": 1.0, "b": 1.0}, "q": {"a": 1.0, "b": 1.0}}) is None
    assert krippendorff_alpha({"p": {"a": 1.0}, "q": {"b": 0.0}}) is None


def test_cohen_kappa_is_that_of_a_table_worked_by_hand() -> None:
    # 20 both first, 5 and 10 one each, 15 both second: agreement 0.7, by chance 0.5.
    one = [1.0] * 25 + [0.0] * 25
    other = [1.0] * 20 + [0.0] * 5 + [1.0] * 10 + [0.0] * 15
    assert cohen_kappa(one, other) == pytest.approx(0.4)
    assert cohen_kappa([1.0, 1.0], [1.0, 1.0]) is None


def test_agreement_among_people_counts_each_pair_once_and_leaves_ties_out() -> None:
    votes = {
        "all three": {"a": 1.0, "b": 1.0, "c": 1.0},
        "one against two": {"a": 1.0, "b": 1.0, "c": 0.0},  # one couple of three
        "tie": {"a": 0.5, "b": 1.0},
        "alone": {"a": 1.0},
    }
    agreement = agreement_among(votes, seed=0)
    assert agreement is not None
    assert (agreement.value, agreement.n) == (pytest.approx((1 + 1 / 3) / 2), 2)
    assert agreement_among({"tie": votes["tie"], "alone": votes["alone"]}, seed=0) is None


def test_agreement_with_a_judge_is_the_share_of_people_that_it_sides_with() -> None:
    votes = {"p": {"a": 1.0, "b": 0.0}, "q": {"a": 0.0}, "r": {"a": 1.0}, "s": {"a": 0.5}}
    agreement = agreement_with(votes, {"p": 0.9, "q": 0.2, "r": 0.5, "s": 1.0}, seed=0)
    assert agreement is not None
    assert (agreement.value, agreement.n) == (0.75, 2)  # r is the judge's tie, s the person's
    assert agreement_with(votes, {}, seed=0) is None


def test_agreement_on_a_handful_of_pairs_is_not_certain() -> None:
    votes = {name: {"a": 1.0, "b": 1.0} for name in "pqr"}
    for agreement in (agreement_among(votes, seed=0), agreement_with(votes, dict.fromkeys(votes, 0.0), seed=0)):
        assert agreement is not None
        # Clopper and Pearson: 1 - 0.025 ** (1 / 3) is the upper bound of none of three.
        assert agreement.high - agreement.low == pytest.approx(1 - 0.025 ** (1 / 3))
