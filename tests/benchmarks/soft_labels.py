"""What soft labels are worth if a quarter of the verdicts is wrong.

The built-in campaign's round, trained on p and on hard labels.

Each pair is judged by one of two judges whose verdicts are flipped at known rates, 5 % and 45 %. One policy is trained
on the verdicts as they are (p = 1), the other on the same verdicts with p = 1 - rate of the pair's judge. All else is
equal: responses, order of the pairs, training. Both are compared on held-out prompts with the start and with each
other, by the exact rule.

Writes `soft_labels.json` and `soft_labels.png` into `runs/bench`.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from measuring import conditions, interval_of_mean, write_result
from one_round import HeldOut, different_pairs, pool, row, sampled, start, trained, training, wins

RATES = (0.05, 0.45)
"""Share of flipped verdicts of each judge; half of the pairs are each judge's, so a quarter of all verdicts is
wrong."""
PROMPTS, HELD_OUT, HELD_OUT_SAMPLES = 512, 256, 4
TRAINING = training(learning_rate=2e-4, epochs=2)
"""Chosen on seeds 1 to 3."""


def main() -> None:
    """Train both policies for each seed and write the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13, 14, 15, 16])
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    options = parser.parse_args()
    before = conditions()
    samples = []
    for seed in options.seeds:
        samples.append(measured(seed))
        sys.stdout.write(f"{samples[-1]}\n")
        sys.stdout.flush()
    summary = {
        "flip_rates": list(RATES),
        "flipped_share": interval_of_mean([sample["flipped_share"] for sample in samples]),
        "soft_minus_hard": interval_of_mean([sample["soft"] - sample["hard"] for sample in samples]),
        "soft_against_hard": interval_of_mean([sample["soft_against_hard"] for sample in samples]),
        "hard": interval_of_mean([sample["hard"] for sample in samples]),
        "soft": interval_of_mean([sample["soft"] for sample in samples]),
    }
    settings = {
        "prompts": PROMPTS,
        "held_out": HELD_OUT,
        "held_out_samples": HELD_OUT_SAMPLES,
        "training": TRAINING.model_dump(),
    }
    write_result(options.out / "soft_labels.json", before=before, summary=summary | settings, samples=samples)
    draw(samples, summary, options.out / "soft_labels.png")
    sys.stdout.write(f"{summary}\n")


def measured(seed: int) -> dict[str, Any]:
    """Return the win rates of the two policies of one seed."""
    policy, chance = start(), random.Random(seed)
    prompts = pool(PROMPTS, seed=seed)
    pairs = different_pairs(prompts, sampled(policy, prompts, samples=2, seed=seed))
    hard, soft, flipped = [], [], 0
    for pair in pairs:
        rate = chance.choice(RATES)
        flip = chance.random() < rate
        first_wins = (pair.advantage > 0) != flip
        flipped += flip
        hard.append(row(pair, float(first_wins)))
        soft.append(row(pair, 1 - rate if first_wins else rate))
    held_out = HeldOut(policy, number=HELD_OUT, samples=HELD_OUT_SAMPLES, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        answers = {
            name: held_out.answers(trained(rows, policy, TRAINING, Path(folder), seed=seed))
            for name, rows in (("hard", hard), ("soft", soft))
        }
    return {
        "seed": seed,
        "pairs": len(pairs),
        "flipped_share": flipped / len(pairs),
        **{name: float(held_out.wins_against_start(texts).mean()) for name, texts in answers.items()},
        "soft_against_hard": float(wins(answers["soft"], answers["hard"], held_out.prompts).mean()),
    }


def draw(samples: list[dict[str, Any]], summary: dict[str, Any], path: Path) -> None:
    """Draw one line per seed from hard to soft labels, and the means with their intervals beside them."""
    figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
    for sample in samples:
        axes.plot([0, 1], [sample["hard"], sample["soft"]], color="0.7", marker="o", markersize=3)
    for place, name in ((-0.1, "hard"), (1.1, "soft")):
        mean = summary[name]
        axes.errorbar(
            place,
            mean["mean"],
            [[mean["mean"] - mean["low"]], [mean["high"] - mean["mean"]]],
            marker="s",
            capsize=4,
            color="C0",
        )
    gain = summary["soft_minus_hard"]
    axes.set_title(
        f"soft minus hard: {gain['mean']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f}), {gain['n']} seeds",
        fontsize=10,
    )
    axes.set_xticks([0, 1], ["hard labels", "labels p"])
    axes.set_xlim(-0.4, 1.4)
    axes.set_ylabel("win rate against the start")
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
