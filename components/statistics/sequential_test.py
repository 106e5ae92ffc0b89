"""A sequential test of a mean by betting: whether a win rate exceeds a value, valid at every look. Pure.

The test begins with a stake of `level` and bets it on the outcomes, one by one, at odds that are fair or worse if the
win rate is not above the value. The stake is then a supermartingale (Ville 1939; Waudby-Smith and Ramdas 2024, Journal
of the Royal Statistical Society B 86(1)), so it reaches 1 with probability `level` at most, whenever somebody looks and
whatever bounded law the outcomes have. stake / level is an e-value.

How much is bet decides only the power. The sizes come from the best test of a fair coin against better ones that also
counts what verdicts cost: it says for each number of wins whether to go on, and its probability of rejecting the fair
coin from there on is itself a fair game. The bets follow that game (a digital option's hedge: Browne 1999, Advances in
Applied Probability 31(2)).
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np

DRIFTS = (1.6, 3.2, 4.8, 6.4)
"""Win rates that a test is designed for, equally weighted: so many standard errors of all prompts above one half."""
LARGEST_RATE = 0.99
MAX_STEPS = 1024
"""Steps of the largest design; with more prompts, a step stands for several of them."""
HALVINGS = 30
"""Halvings of the search for the penalty of a false rejection, on a scale of logarithms."""
PRIOR_PROMPTS = 4.0
"""Prompts without a tie that the estimate of the ties begins with."""
CAUTION = 1.5
"""Standard errors by which the prompts that are left may have more ties than the estimate."""
SHOWN = 1 - 1e-9
LOST = 1e-6
"""Share of its first stake at which a test has nothing left to bet."""


class Design(NamedTuple):
    """For each step: stakes, ascending from 0 to 1, and what is bet on a win at each."""

    stakes: tuple[np.ndarray, ...]
    bets: tuple[np.ndarray, ...]

    @property
    def steps(self) -> int:
        """Number of steps of the whole test."""
        return len(self.stakes)


@dataclass
class SequentialTest:
    """Evidence that a win rate exceeds `null`, updated prompt by prompt."""

    level: float
    """Largest probability of a stake of 1 if the win rate is not above `null`, in (0, 1)."""
    num_prompts: int
    """Prompts after which the test ends."""
    null: float = 0.5
    """Win rate that is to be exceeded, in (0, 1)."""
    verdict_cost: float = 0.0
    """Cost of the verdicts on all prompts, as a multiple of the cost of missing a better model; 0 gives up nothing."""
    stake: float = field(init=False)
    """Present stake, in [0, 1]; the outcomes so far show the win rate to exceed `null` if it is 1."""
    seen: int = field(init=False, default=0)
    _squares: float = field(init=False, default=0.0)
    _design: Design = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Begin with a stake of `level`."""
        self.stake = self.level
        self._design = design(self.num_prompts, self.level, self.verdict_cost)

    @property
    def e_value(self) -> float:
        """Return the stake as a multiple of the first one; 1 / level shows a win rate above `null`."""
        return self.stake / self.level

    @property
    def shown(self) -> bool:
        """Whether the outcomes show that the win rate exceeds `null`."""
        return self.stake >= SHOWN

    @property
    def hopeless(self) -> bool:
        """Whether nothing is left to bet, so that no outcomes can show it any more."""
        return self.stake <= LOST * self.level

    def observe(self, outcome: float) -> None:
        """Bet on the next outcome, in [0, 1]. Nothing is bet beyond `num_prompts`, or once `shown`.

        Raises:
            ValueError: The outcome is outside [0, 1].
        """
        if not 0 <= outcome <= 1:
            raise ValueError(f"outcome {outcome} is outside [0, 1]: 1 is a win, 0.5 a tie, 0 a loss")
        advantage = (outcome - self.null) / max(self.null, 1 - self.null)
        if self.seen < self.num_prompts and not self.shown:
            self.stake = float(np.clip(self.stake + self._bet() * advantage, 0.0, 1.0))
        self.seen += 1
        self._squares += advantage**2

    def _bet(self) -> float:
        """Return what a whole win gains, and a whole loss costs.

        Ties leave fewer steps than prompts: what remains is counted in the steps that outcomes like those so far make,
        with some caution, since a stake between 0 and 1 at the end has shown nothing.
        """
        spread = (PRIOR_PROMPTS + self._squares) / (PRIOR_PROMPTS + self.seen)
        prompts_per_step = self.num_prompts / self._design.steps
        left = (self.num_prompts - self.seen) * spread
        remaining = (left - CAUTION * (left * (1 - spread)) ** 0.5) / prompts_per_step
        row = self._design.steps - min(max(round(remaining), 1), self._design.steps)
        bet = float(np.interp(self.stake, self._design.stakes[row], self._design.bets[row]))
        return min(bet / prompts_per_step**0.5, self.stake, 1 - self.stake)


@lru_cache(maxsize=512)
def design(num_prompts: int, level: float, verdict_cost: float) -> Design:
    """Return the bets of the best test at a level, by backward induction (Wald and Wolfowitz 1948; Arrow et al. 1949).

    Args:
        num_prompts: Prompts of the test, at least 1.
        level: Probability of rejecting a fair coin, in (0, 1).
        verdict_cost: Cost of the verdicts on all prompts; missing a better coin costs 1.
    """
    steps = min(num_prompts, MAX_STEPS)
    low, high = -5.0, 25.0  # log of what rejecting a fair coin costs
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        values = _values(steps, middle, verdict_cost)
        low, high = (middle, high) if values[0][0] > level else (low, middle)
    values = _values(steps, high, verdict_cost)
    rows = [_row(values[step], values[step + 1]) for step in range(steps)]
    return Design(tuple(stakes for stakes, _ in rows), tuple(bets for _, bets in rows))


def _values(steps: int, log_penalty: float, verdict_cost: float) -> list[np.ndarray]:
    """Return by step, for each number of wins so far, the probability that a fair coin is rejected from there on."""
    rates = np.minimum(0.5 + np.array(DRIFTS) / (2 * steps**0.5), LARGEST_RATE)
    win, loss = np.log(2 * rates), np.log(2 * (1 - rates))
    penalty, cost = np.exp(log_penalty), verdict_cost / steps
    values: list[np.ndarray] = [np.empty(0)] * (steps + 1)
    loss_ahead = value_ahead = np.empty(0)
    for step in range(steps, -1, -1):
        wins = np.arange(step + 1)
        # Weights of the better coins, as likelihood ratios to the fair one.
        better = np.exp(wins[:, None] * win + (step - wins)[:, None] * loss).mean(axis=1)
        rejects, value = penalty <= better, (penalty <= better).astype(np.float64)
        best = np.minimum(penalty, better)
        if step < steps:
            ahead = cost * (1 + better) + (loss_ahead[1:] + loss_ahead[:-1]) / 2
            goes_on = ahead <= best
            value = np.where(goes_on, (value_ahead[1:] + value_ahead[:-1]) / 2, rejects)
            best = np.minimum(best, ahead)
        loss_ahead, value_ahead = best, value
        values[step] = value
    return values


def _row(values: np.ndarray, ahead: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the stakes at which a step goes on, with 0 and 1 around them, and the bets that lead to the next step."""
    bets = (ahead[1:] - ahead[:-1]) / 2
    goes_on = (values > 0) & (values < 1)
    stakes, places = np.unique(np.concatenate([[0.0], values[goes_on], [1.0]]), return_index=True)
    return stakes, np.concatenate([[0.0], bets[goes_on], [0.0]])[places]
