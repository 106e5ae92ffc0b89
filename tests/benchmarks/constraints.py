"""What a constraint costs on the built-in campaign: the demo with and without one, the same seeds, two rounds each.

Writes `runs/bench/constraints.json`: for each seed the share of sampled held-out answers that break the rule and the
win rate against the start, with and without it, and a summary. Takes some minutes a seed.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from components.artifacts import read_json, write_json

PHRASE, LIMIT, ROUNDS = "Please write again", 0.02, 2
CONSTRAINTS = {"banned_phrases": [PHRASE], "limit": LIMIT, "weight": 0.5, "step": 1.0}
# So small a weight changes nothing, but the rule is measured.
MEASURED_ONLY = {"banned_phrases": [PHRASE], "mode": "penalty", "weight": 0.0}


def main() -> None:
    """Run the campaigns and write the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[17, 18, 19])
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    options = parser.parse_args()
    samples = [
        {"seed": seed, "free": measured(seed, MEASURED_ONLY), "constrained": measured(seed, CONSTRAINTS)}
        for seed in options.seeds
    ]
    cost = [one["free"]["win_rate"] - one["constrained"]["win_rate"] for one in samples]
    summary = {
        "limit": LIMIT,
        "violation_in_training": [one["constrained"]["violation"] for one in samples],
        "share_free": statistics.median(one["free"]["share"] for one in samples),
        "share_constrained": statistics.median(one["constrained"]["share"] for one in samples),
        "win_rate_cost_median": statistics.median(cost),
        "win_rate_cost_mean": statistics.fmean(cost),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(
        options.out / "constraints.json", {"summary": summary, "samples": samples, "load": list(os.getloadavg())}
    )
    sys.stdout.write(f"{summary}\n")


def measured(seed: int, constraints: dict[str, Any]) -> dict[str, float]:
    """Run the demo's rounds under the constraints and return the measures of the last round."""
    demo = yaml.safe_load((Path(__file__).parents[2] / "conf" / "demo.yaml").read_text())
    with tempfile.TemporaryDirectory() as place:
        config = Path(place, "campaign.yaml")
        config.write_text(yaml.safe_dump(demo | {"seed": seed, "num_rounds": ROUNDS, "constraints": constraints}))
        environment = {**os.environ, "RATCHET_RUNS": f"{place}/runs", "PREFECT_HOME": f"{place}/prefect"}
        subprocess.run(
            [sys.executable, "-m", "flows.cli", "run", str(config)],
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        last = Path(place, "runs", "demo", f"round-{ROUNDS:03d}")
        evaluation, training = (
            read_json(last / "evaluate" / "evaluation.json"),
            read_json(last / "dpo_train" / "train.json"),
        )
        return {
            "share": evaluation["violations"]["banned_phrases"]["challenger"],
            "share_start": evaluation["violations"]["banned_phrases"]["start"],
            "win_rate": evaluation["win_rate_vs_start"]["value"],
            "violation": training["eval"]["constraints/banned_phrases/violation"],
            "multiplier": training["eval"]["constraints/banned_phrases/multiplier"],
        }


if __name__ == "__main__":
    main()
