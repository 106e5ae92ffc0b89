"""The account of a campaign's false promotions: which level a round's test has. Pure.

The account begins with `gate.false_promotion_rate`. A round's test stakes a part of it. A test that shows the
challenger to be better gives its stake back, so only rounds without evidence cost anything; a test that ends without it
gives back what its stake is then worth, at most all of it. So whatever the rounds, and whatever decides on the next:

- over a round whose challenger is better, the account does not grow;
- over one whose challenger is not, account and stake together are a supermartingale, and its promotion needs a stake
  of 1.

By Ville's inequality, the probability that a campaign ever promotes a challenger that is not better is at most
`gate.false_promotion_rate`, however many rounds it has. (Without what a lost stake gives back, this is the online
fallback procedure of Tian and Ramdas 2021, arXiv 1910.04900, with a conditional test in each round.)
"""

import math
from collections.abc import Iterable

from components.records import RoundRecord

DIGITS = 2
"""Digits of a level, which people read; the rest stays in the account."""


def level_of_next(rounds: Iterable[RoundRecord], *, false_promotion_rate: float) -> float:
    """Return the level of the test of the round after `rounds`.

    The round after k rounds without evidence stakes the share 1 - sqrt((k + 1) / (k + 2)) of the account. If every
    stake is lost, false_promotion_rate / sqrt(k + 1) is left after k of them, so there is always a next one.

    Args:
        rounds: The finished rounds; those of versions without such a test do not count.
        false_promotion_rate: What the account begins with, in (0, 1).

    Raises:
        ValueError: The rounds have used up more than that, as they may have if it was lowered.
    """
    account, tests = false_promotion_rate, 1
    for record in rounds:
        if record.evidence is None or record.evidence.shown:
            continue
        account -= record.evidence.level * (1 - min(record.evidence.e_value, 1.0))
        tests += 1
    if account <= 0:
        raise ValueError(
            f"gate.false_promotion_rate = {false_promotion_rate:g} is used up: the campaign's rounds have staked "
            f"{false_promotion_rate - account:.2g}; set it above that"
        )
    return level_of_account(account, tests)


def level_of_account(account: float, tests: int) -> float:
    """Return what an account stakes on its next test, after `tests - 1` without evidence."""
    level = account * (1 - (tests / (tests + 1)) ** 0.5)
    unit = 10.0 ** (math.floor(math.log10(level)) - DIGITS + 1)
    return math.floor(level / unit) * unit
