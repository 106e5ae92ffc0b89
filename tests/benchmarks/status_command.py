"""How long `ratchet status` takes on a campaign of 500 rounds: the whole command, its imports included.

python tests/benchmarks/status_command.py --out runs/bench
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import conditions, interval_of_median, write_result

from components.campaign.files import STAGES

RATE = {"value": 0.635, "low": 0.4891, "high": 0.7713, "n": 256}
REASON = (
    "win rate 0.635 [0.489, 0.771] against the champion is not surely above 0.5, as its lower bound of 0.4891 must be"
)


def write_campaign(directory: Path, rounds: int) -> None:
    """Write a campaign.json with this many rounds, each with reasons and seconds like a real one's."""
    records = [
        {
            "round": number,
            "promoted": number % 7 == 0,
            "reasons": [REASON, "mean length 39.5 tokens is 1.66 times the champion's 23.8, above the limit 1.5"],
            "num_pairs": 400 + number,
            "win_rate_vs_champion": RATE,
            "win_rate_vs_start": RATE,
            "kl_to_start": 1.5,
            "mean_tokens": 39.5,
            "mean_reward": 2.25,
            "seconds": dict.fromkeys(STAGES, 12.5),
            "policy_digest": f"{number:064x}",
            "reference_digest": f"{number - 1:064x}",
            "mlflow_run_id": f"{number:032x}",
        }
        for number in range(1, rounds + 1)
    ]
    champion = rounds - rounds % 7
    state = {
        "campaign": "long",
        "champion": {"round": champion, "digest": f"{champion:064x}"},
        "target": None,
        "rounds": records,
    }
    directory.mkdir(parents=True)
    (directory / "campaign.json").write_text(json.dumps(state, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument(
        "--runs", type=int, default=20, help="how often the command is run, after one run that is not counted"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    arguments = parser.parse_args()
    before = conditions()
    with tempfile.TemporaryDirectory(prefix="status-") as place:
        write_campaign(Path(place) / "long", arguments.rounds)
        samples = [seconds_of_status(Path(place)) for _ in range(arguments.runs + 1)][1:]
    told = {name: interval_of_median([sample[name] for sample in samples]) for name in samples[0]}
    write_result(arguments.out / "status_command.json", before=before, summary=told, samples=samples)
    print(json.dumps(told, indent=1))


def seconds_of_status(runs: Path) -> dict[str, float]:
    """Run the command once and return its seconds on the clock and of the processor."""
    began, used = time.monotonic(), os.times()
    environment = {**os.environ, "RATCHET_RUNS": str(runs)}
    command = [sys.executable, "-m", "flows.cli", "status", "long"]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    processor = after.children_user + after.children_system - used.children_user - used.children_system
    return {"seconds": time.monotonic() - began, "processor_seconds": processor}


if __name__ == "__main__":
    main()
