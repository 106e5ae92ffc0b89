"""How often campaigns promote a challenger that is not better, and what that guarantee costs in power and verdicts.

Simulates campaigns of the gate's account and test on held-out outcomes that are won with a known rate: equal and worse
challengers; better ones; and an opponent who knows the outcomes of all prompts that earlier gates saw, and enters the
best of ten equal challengers by them. Beside it, the gate without them: each round a two-sided 95 % interval on all
prompts, and the same at a level that gives 100 rounds the same guarantee (Bonferroni).

Writes `gate.json` and `gate.png` into `runs/bench`.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from measuring import conditions, write_result
from scipy.stats import beta, binom

from components.config import GateConfig
from components.promotion.levels import level_of_account
from components.statistics.sequential_test import LOST, SHOWN, SequentialTest, design

PROMPTS, LOOK_EVERY = 256, 16
CANDIDATES, POOL = 10, 1024
GATE = GateConfig()
WORSE, BETTER = (0.5, 0.49, 0.48), (0.52, 0.55, 0.60, 0.70)
Draw = Callable[[np.ndarray], np.ndarray]
"""From indices of campaigns to their outcomes on the next prompt."""


@dataclass
class Campaigns:
    """Campaigns side by side, each with its account."""

    size: int
    accounts: np.ndarray = field(init=False)
    tests: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        """Open the accounts."""
        self.accounts = np.full(self.size, GATE.false_promotion_rate)
        self.tests = np.ones(self.size, dtype=int)

    def round(self, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
        """Test one challenger of each campaign; return which are shown to be better, and how many prompts it took."""
        pairs = zip(self.accounts, self.tests, strict=True)
        levels = np.array([level_of_account(account, tests) for account, tests in pairs])
        shown, judged = np.zeros(self.size, dtype=bool), np.full(self.size, PROMPTS)
        e_values = np.zeros(self.size)
        for level in np.unique(levels):
            group = np.flatnonzero(levels == level)
            shown[group], judged[group], e_values[group] = tested(float(level), group, draw)
        failed = ~shown
        self.accounts[failed] -= (levels * (1 - np.minimum(e_values, 1)))[failed]
        self.tests[failed] += 1
        return shown, judged


def tested(level: float, group: np.ndarray, draw: Draw) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Run `SequentialTest` for all campaigns of a level at once; outcomes are wins and losses.

    Returns:
        By campaign: whether it is shown to be better, the judged prompts and the e-value at the end.
    """
    bets = design(PROMPTS, level, GATE.verdict_cost)
    stakes, judged = np.full(len(group), level), np.full(len(group), PROMPTS)
    running = np.ones(len(group), dtype=bool)
    for seen in range(PROMPTS):
        outcomes = draw(group)
        bet = np.interp(stakes, bets.stakes[seen], bets.bets[seen])
        bet = np.minimum(bet, np.minimum(stakes, 1 - stakes))
        moved = np.clip(stakes + bet * (2 * outcomes - 1), 0, 1)
        stakes = np.where(running & (stakes < SHOWN), moved, stakes)
        if (seen + 1) % LOOK_EVERY == 0:
            ended = running & ((stakes >= SHOWN) | (stakes <= LOST * level))
            judged[ended] = seen + 1
            running &= ~ended
            if not running.any():
                break
    return stakes >= SHOWN, judged, stakes / level


def check_simulation(chance: np.random.Generator) -> None:
    """Check that the simulated test is the one of the product."""
    for level in (0.0146, 0.0003):
        wins = (chance.random((PROMPTS, 50)) < 0.58).astype(float)
        rows = iter(wins)
        _, judged, e_values = tested(level, np.arange(50), lambda group, rows=rows: next(rows)[group])
        for campaign in range(50):
            test = SequentialTest(level=level, num_prompts=PROMPTS, verdict_cost=GATE.verdict_cost)
            for outcome in wins[: judged[campaign], campaign]:
                test.observe(float(outcome))
            assert abs(test.e_value - e_values[campaign]) < 1e-9 * (1 + test.e_value), (level, campaign)


def constant(rate: float, *, size: int, rounds: int, chance: np.random.Generator) -> dict[str, Any]:
    """Run campaigns whose challengers all win at one rate."""
    campaigns = Campaigns(size)
    ever, promoted, judged = np.zeros(size, dtype=bool), [], []
    ever_by_round = []
    for _ in range(rounds):
        shown, used = campaigns.round(lambda group: (chance.random(len(group)) < rate).astype(float))
        ever |= shown
        ever_by_round.append(float(ever.mean()))
        promoted.append(float(shown.mean()))
        judged.append(float(used.mean() / PROMPTS))
    return {
        "rate": rate,
        "campaigns_with_a_promotion": share(int(ever.sum()), size),
        "by_round": ever_by_round,
        "power_of_the_first_round": promoted[0],
        "power_over_all_rounds": float(np.mean(promoted)),
        "share_of_verdicts_first_round": judged[0],
        "share_of_verdicts": float(np.mean(judged)),
    }


def adaptive(*, pool: int, size: int, rounds: int, chance: np.random.Generator) -> dict[str, Any]:
    """Let an opponent enter the best of ten equal challengers, by their outcomes on all prompts that gates have seen.

    The worst case: a challenger's outcome on a prompt never changes. Prompts are drawn without replacement until the
    pool is used up, as the gate draws them.

    Args:
        pool: Held-out prompts; `rounds` times those of a round if none is to be seen again.
        size: Campaigns.
        rounds: Rounds of each.
        chance: Source of randomness.
    """
    campaigns, per_pass = Campaigns(size), pool // PROMPTS
    ever = np.zeros(size, dtype=bool)
    for number in range(rounds):
        seen = min(number * PROMPTS, pool)
        part = number % per_pass
        if part == 0:
            order = np.argsort(chance.random(pool))
        now = order[part * PROMPTS : (part + 1) * PROMPTS]
        if number < per_pass:
            # Outcomes on prompts that are new say nothing of those that the opponent knows.
            outcomes = chance.integers(0, 2, size=(size, PROMPTS)).astype(float)
        else:
            wins = chance.integers(0, 2, size=(size, CANDIDATES, pool), dtype=np.int8)
            best = wins.sum(axis=2, dtype=np.int32).argmax(axis=1)
            outcomes = wins[np.arange(size), best][:, now].astype(float)
        places = np.zeros(size, dtype=int)

        def draw(group: np.ndarray, outcomes: np.ndarray = outcomes, places: np.ndarray = places) -> np.ndarray:
            drawn = outcomes[group, places[group]]
            places[group] += 1
            return drawn

        shown, _ = campaigns.round(draw)
        ever |= shown
    return {"pool": pool, "seen_again": seen == pool, "campaigns_with_a_promotion": share(int(ever.sum()), size)}


def share(count: int, total: int) -> dict[str, float]:
    """Return a share with its 95 % interval (Clopper and Pearson 1934)."""
    low = float(beta.ppf(0.025, count, total - count + 1)) if count else 0.0
    high = float(beta.ppf(0.975, count + 1, total - count)) if count < total else 1.0
    return {"share": count / total, "low": low, "high": high}


def fixed(rate: float, level: float, rounds: int) -> dict[str, float]:
    """Return what a one-sided sign test of all prompts does in each round at a level (exact)."""
    needed = int(binom.isf(level, PROMPTS, 0.5)) + 1
    power = float(binom.sf(needed - 1, PROMPTS, rate))
    return {"rate": rate, "power": power, "campaigns_with_a_promotion": 1 - (1 - power) ** rounds}


def plot(path: Path, worse: list[Any], better: list[Any], former: list[Any], rounds: int) -> None:
    """Draw false promotions over the rounds, and power and verdicts over the win rate."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    at = np.arange(1, rounds + 1)
    for style, each, old in zip(("-", "--", ":"), worse, former, strict=True):
        name = "equal" if each["rate"] == 0.5 else f"wins {each['rate']:g}"
        left.plot(at, each["by_round"], style, color="tab:blue", label=f"this gate, {name}")
        left.plot(at, 1 - (1 - old["power"]) ** at, style, color="tab:gray", label=f"95 % interval each round, {name}")
    left.axhline(GATE.false_promotion_rate, color="tab:red", linewidth=0.8)
    left.set(xlabel="round", ylabel="campaigns with a false promotion", ylim=(0, 1))
    left.legend(fontsize="x-small")
    rates = [each["rate"] for each in better]
    right.plot(rates, [each["power_of_the_first_round"] for each in better], "o-", label="promoted, first round")
    right.plot(rates, [each["power_over_all_rounds"] for each in better], "s-", label=f"promoted, {rounds} rounds")
    right.plot(rates, [each["bonferroni"]["power"] for each in better], "^--", color="tab:gray", label="Bonferroni")
    right.plot(rates, [each["share_of_verdicts"] for each in better], "x:", color="tab:green", label="verdicts used")
    right.set(xlabel="win rate of the challenger", ylabel="share", ylim=(0, 1.02))
    right.legend(fontsize="x-small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Simulate, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--campaigns", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    options = parser.parse_args()
    before, chance = conditions(), np.random.default_rng(7)
    check_simulation(chance)
    size, rounds = options.campaigns, options.rounds
    worse = [constant(rate, size=size, rounds=rounds, chance=chance) for rate in WORSE]
    former = [fixed(rate, 0.025, rounds) for rate in WORSE]
    better = [
        constant(rate, size=size // 5, rounds=rounds, chance=chance)
        | {"bonferroni": fixed(rate, GATE.false_promotion_rate / rounds, rounds)}
        for rate in BETTER
    ]
    opponents = [
        adaptive(pool=pool, size=size // 10, rounds=rounds, chance=chance) for pool in (rounds * PROMPTS, POOL)
    ]
    for line in (*worse, *better, *former, *opponents):
        sys.stdout.write(f"{ ({key: value for key, value in line.items() if key != 'by_round'}) }\n")
    summary = {
        "prompts": PROMPTS,
        "look_every": LOOK_EVERY,
        "campaigns": size,
        "rounds": rounds,
        "not_better": worse,
        "better": better,
        "interval_of_95_each_round": former,
        "adaptive_opponent": opponents,
    }
    write_result(options.out / "gate.json", before=before, summary=summary, samples=[])
    plot(options.out / "gate.png", worse, better, former, rounds)


if __name__ == "__main__":
    main()
