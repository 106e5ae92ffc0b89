"""The bound of a loss on paired items: worked values, its coverage over all outcomes, and suites that are too small."""

import math

import numpy as np
import pytest

from components.statistics.non_inferiority import Loss, items_needed, paired_loss


def bound(lost: int, won: int, num_items: int, confidence: float = 0.95) -> Loss:
    same = num_items - lost - won
    champion = [1.0] * lost + [0.0] * won + [1.0] * same
    challenger = [0.0] * lost + [1.0] * won + [1.0] * same
    return paired_loss(challenger, champion, confidence=confidence)


def test_loss_counts_the_items_of_either_side() -> None:
    loss = bound(7, 3, 40)
    assert (loss.value, loss.num_items, loss.lost, loss.won) == (0.1, 40, 7, 3)
    assert 0.1 < loss.upper < 0.3


def test_bound_of_one_equal_item_is_the_bound_of_differing_items() -> None:
    """By hand: with one item the loss is at most the share that differs, which is below 1 - 0.1 x 5 % by 1 - 0.005."""
    assert bound(0, 0, 1).upper == pytest.approx(0.955, abs=1e-9)
    assert bound(1, 0, 1).upper == 1.0


def test_bound_of_equal_outcomes_has_a_width_that_shrinks_with_the_items() -> None:
    bounds = [bound(0, 0, number).upper for number in (10, 40, 160)]
    assert bounds[0] > bounds[1] > bounds[2] > 0
    # No bound at this level can be lower than the exact one of a champion that is never beaten.
    assert bounds[2] > 1 - math.pow(0.05, 1 / 160)


@pytest.mark.parametrize("differing", [(0.1, 0.0), (0.2, 0.1), (0.3, 0.3), (0.5, 0.1), (0.6, 0.4), (0.02, 0.0)])
def test_bound_is_below_the_true_loss_at_most_as_often_as_its_level_says(differing: tuple[float, float]) -> None:
    """The chance of every outcome of 15 items, by the trinomial law."""
    number, (lost_share, won_share) = 15, differing
    missed = 0.0
    for lost in range(number + 1):
        for won in range(number + 1 - lost):
            same = number - lost - won
            ways = math.factorial(number) // (math.factorial(lost) * math.factorial(won) * math.factorial(same))
            chance = ways * lost_share**lost * won_share**won * (1 - lost_share - won_share) ** same
            if chance > 1e-9 and bound(lost, won, number, 0.9).upper < lost_share - won_share:
                missed += chance
    assert missed <= 0.1


def test_bound_of_many_items_is_near_the_normal_one() -> None:
    """20 lost and 20 won of 400: the standard error is the root of 40 / 400 ^ 2, and the bound a quarter wider."""
    normal = 1.645 * math.sqrt(40) / 400
    assert normal < bound(20, 20, 400).upper < 1.35 * normal


def test_bound_grows_with_the_level_and_with_what_is_lost() -> None:
    assert bound(5, 5, 100, 0.8).upper < bound(5, 5, 100, 0.95).upper < bound(5, 5, 100, 0.99).upper
    assert bound(5, 5, 100).upper < bound(6, 5, 100).upper
    assert bound(5, 6, 100).upper < bound(5, 5, 100).upper


@pytest.mark.parametrize(("margin", "number"), [(0.1, 39), (0.05, 80)])
def test_items_needed_is_the_smallest_suite_that_can_pass(margin: float, number: int) -> None:
    assert items_needed(margin, confidence=0.95) == number
    assert bound(0, 0, number).upper <= margin < bound(0, 0, number - 1).upper


def test_outcomes_between_0_and_1_count_by_their_size() -> None:
    chance = np.random.default_rng(2)
    champion = chance.random(600)
    challenger = np.clip(champion - 0.2, 0, 1)
    loss = paired_loss(challenger.tolist(), champion.tolist(), confidence=0.95)
    assert loss.value == pytest.approx(float((champion - challenger).mean()))
    assert loss.lost / 600 == pytest.approx(loss.value, abs=0.05)
    assert loss.won == 0
    assert loss.value < loss.upper < loss.value + 0.08


def test_equal_outcomes_between_0_and_1_differ_on_no_item() -> None:
    assert paired_loss([0.3, 0.5, 0.9] * 30, [0.3, 0.5, 0.9] * 30, confidence=0.95).upper == bound(0, 0, 90).upper


@pytest.mark.parametrize(
    ("challenger", "champion", "match"),
    [
        ([], [], "0 and 0 outcomes"),
        ([1.0], [1.0, 0.0], "1 and 2 outcomes"),
        ([1.5], [1.0], r"not in \[0, 1\]"),
        ([math.nan], [1.0], r"not in \[0, 1\]"),
    ],
)
def test_outcomes_that_cannot_be_compared_are_refused(
    challenger: list[float], champion: list[float], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        paired_loss(challenger, champion, confidence=0.95)
