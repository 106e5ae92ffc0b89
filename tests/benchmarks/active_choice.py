"""How many costly verdicts active choice saves.

A round of the built-in campaign, a noisy cheap jury, and the exact rule as costly judge.

The cheap jury is five copies of the rule whose verdicts are flipped at known rates. It knows half of the products well
(5 %) and the other half hardly (45 %), and guesses on close pairs: the rate rises to 50 % as the difference of the
exact scores falls to 0. A budget of pairs, chosen at random or by the jury's disagreement, goes to the exact rule; the
others keep the jury's label. A policy is trained on them all, and what counts is its win rate against the start on
held-out prompts. All else is equal: responses, jury, training, held-out prompts.

Writes `active_choice.json` and `active_choice.png` into `runs/bench`. The factor is how many verdicts random choice
needs for the win rate that active choice reaches, divided by those that active choice used; its interval is a bootstrap
over the seeds.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from measuring import conditions, interval_of_mean, write_result
from one_round import HeldOut, pool, sampled, start, trained, training

from components.artifacts import derive_seed
from components.builtin.world import load_world, read_case, support_reply
from components.config import ActiveConfig, JudgeConfig, PreferencesConfig
from components.data.prompts import prompt_id
from components.judges.jury import Juror, JuryJudge
from components.judges.protocol import Group, Opinion, Verdict, make_verdict
from components.judges.rule import RuleJudge
from components.preferences.active.refine import CostlyJudge, refine
from components.preferences.judged_pairs import build_pairs

KNOWN, UNKNOWN, CLOSE = 0.05, 0.45, 0.5
"""Flip rates of a juror on products that it knows and that it does not, and the difference of exact scores at which
"close" begins."""
JURORS = 5
RANDOM, ACTIVE = "random", "disagreement"
SHARES = {RANDOM: (0.0, 0.25, 0.5, 1.0), ACTIVE: (0.0, 0.125, 0.25, 0.375, 1.0)}
"""Budgets, as shares of the round's pairs; none and all of them are one point of both curves."""
RESAMPLES = 4000
PROMPTS, HELD_OUT, HELD_OUT_SAMPLES = 512, 256, 6
TRAINING = training(learning_rate=2e-4, epochs=1)
"""Rates, jurors and training were chosen on seeds 1 and 2."""
PREFERENCES = PreferencesConfig()


class NoisyRule:
    """Compare every two responses as the exact rule does, with seeded flips at a known rate."""

    def __init__(self, number: int, *, seed: int) -> None:
        self.name, self._seed = f"juror {number}", seed
        products = list(load_world().products)
        random.Random(seed).shuffle(products)
        self._known = set(products[: len(products) // 2])

    def judge(self, groups: Sequence[Group]) -> list[Verdict]:
        return [self._compare(group) for group in groups if self._advantage(group)]

    def _advantage(self, group: Group) -> float:
        (_, first), (_, second) = group.responses
        return support_reply(group.messages, first) - support_reply(group.messages, second)

    def _compare(self, group: Group) -> Verdict:
        advantage = self._advantage(group)
        chance = random.Random(derive_seed(self._seed, self.name, group.prompt_id))
        right = chance.random() >= self.flip_rate(group, advantage)
        (first, _), (second, _) = group.responses
        return make_verdict(self.name, group, first, Opinion(float((advantage > 0) == right)), opponent_id=second)

    def flip_rate(self, group: Group, advantage: float) -> float:
        base = KNOWN if read_case(group.messages).product in self._known else UNKNOWN
        return base + (0.5 - base) * float(np.exp(-abs(advantage) / CLOSE))


def main() -> None:
    """Train the policies of each seed and write the curves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[21, 22, 23, 24, 25, 26])
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    options = parser.parse_args()
    before = conditions()
    samples: list[dict[str, Any]] = []
    for seed in options.seeds:
        samples.append(measured(seed))
        sys.stdout.write(f"{samples[-1]}\n")
        sys.stdout.flush()
    summary = {
        "flip_rates": {"known": KNOWN, "unknown": UNKNOWN, "close": CLOSE, "jurors": JURORS},
        "cheap_labels_wrong": interval_of_mean([sample["cheap_labels_wrong"] for sample in samples]),
        "curves": {
            how: {share: interval_of_mean([at(sample, how, share) for sample in samples]) for share in SHARES[how]}
            for how in SHARES
        },
        "factors": factors(samples),
    }
    settings = {
        "prompts": PROMPTS,
        "held_out": HELD_OUT,
        "held_out_samples": HELD_OUT_SAMPLES,
        "training": TRAINING.model_dump(),
    }
    write_result(options.out / "active_choice.json", before=before, summary=summary | settings, samples=samples)
    draw(summary, options.out / "active_choice.png")
    sys.stdout.write(f"{summary}\n")


def measured(seed: int) -> dict[str, Any]:
    """Return the win rates of one seed by choice and share of the pairs."""
    policy, prompts = start(), pool(PROMPTS, seed=seed)
    responses = sampled(policy, prompts, samples=2, seed=seed)
    groups = [
        Group(prompt_id(messages), messages, tuple(enumerate(two)))
        for messages, two in zip(prompts, responses, strict=True)
    ]
    jurors = [NoisyRule(number, seed=seed) for number in range(JURORS)]
    jury = JuryJudge([Juror(lambda judge=judge: judge, 1.0) for judge in jurors], votes="majority")  # type: ignore[misc]
    verdicts = jury.judge(groups)
    pairs = build_pairs(groups, verdicts, judge=jury.name, preferences=PREFERENCES, seed=seed).rows
    held_out = HeldOut(policy, number=HELD_OUT, samples=HELD_OUT_SAMPLES, seed=seed)
    found: dict[str, dict[str, Any]] = {}
    for how, shares in SHARES.items():
        for share in shares:
            same = f"{RANDOM} {share}"
            if share in (0.0, 1.0) and same in found:
                found[f"{how} {share}"] = found[same]
                continue
            active = ActiveConfig(budget=round(share * len(pairs)), choose_by=how)  # type: ignore[arg-type]
            costly = CostlyJudge(RuleJudge(JudgeConfig()), active, None)
            refined = refine(pairs, groups, verdicts, costly=costly, preferences=PREFERENCES, seed=seed)
            with tempfile.TemporaryDirectory() as folder:
                answers = held_out.answers(trained(refined.rows, policy, TRAINING, Path(folder), seed=seed))
            win_rate = float(held_out.wins_against_start(answers).mean())
            found[f"{how} {share}"] = {"win_rate": win_rate, **refined.counts}
    flipped = found[f"{RANDOM} 1.0"]["flipped"]
    return {"seed": seed, "pairs": len(pairs), "cheap_labels_wrong": flipped / len(pairs), "runs": found}


def at(sample: Mapping[str, Any], how: str, share: float) -> float:
    """Return the win rate of one run."""
    return float(sample["runs"][f"{how} {share}"]["win_rate"])


def factors(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how many times fewer verdicts active choice needs at each budget, and in the mean over them.

    Each factor has its 95 % interval.
    """
    budgets = [share for share in SHARES[ACTIVE] if 0 < share < 1]
    chance = np.random.default_rng(1)
    point = _factors(samples, budgets)
    drawn = np.array(
        [
            _factors([samples[index] for index in chance.integers(len(samples), size=len(samples))], budgets)
            for _ in range(RESAMPLES)
        ]
    )
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    names = [*(str(share) for share in budgets), "mean"]
    return {
        name: {"value": float(point[i]), "low": float(low[i]), "high": float(high[i])} for i, name in enumerate(names)
    }


def _factors(samples: Sequence[Mapping[str, Any]], budgets: Sequence[float]) -> np.ndarray:
    """Return the factors, by inverting random choice's mean curve, made monotone and straight between its points.

    Above it counts as its end.
    """
    means = np.maximum.accumulate(
        [np.mean([at(sample, RANDOM, share) for sample in samples]) for share in SHARES[RANDOM]]
    )
    # A flat piece has no inverse: its first point is taken.
    rising = means + 1e-9 * np.arange(len(means))
    reached = [np.mean([at(sample, ACTIVE, share) for sample in samples]) for share in budgets]
    found = np.interp(reached, rising, SHARES[RANDOM]) / np.array(budgets)
    return np.append(found, found.mean())


def draw(summary: dict[str, Any], path: Path) -> None:
    """Draw both curves with their intervals."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for how, colour in ((RANDOM, "0.5"), (ACTIVE, "C0")):
        curve = summary["curves"][how]
        shares, means = list(curve), np.array([point["mean"] for point in curve.values()])
        reach = np.array([[point["mean"] - point["low"], point["high"] - point["mean"]] for point in curve.values()]).T
        axes.errorbar(
            shares,
            means,
            reach,
            marker="o",
            capsize=3,
            color=colour,
            label=f"chosen by {how}" if how == ACTIVE else "drawn at random",
        )
    factor = summary["factors"]["mean"]
    axes.set_title(
        f"{factor['value']:.2f} times fewer costly verdicts ({factor['low']:.2f} to {factor['high']:.2f})", fontsize=10
    )
    axes.set_xlabel("share of the pairs that the costly judge sees")
    axes.set_ylabel("win rate against the start")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
