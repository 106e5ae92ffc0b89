"""Fail if a demo campaign did not reach what the README says it reaches."""

import json
import sys
from pathlib import Path

campaign = json.loads((Path(sys.argv[1]) / "campaign.json").read_text())
rounds, best = campaign["rounds"], campaign["champion"]["round"]
assert len(rounds) == 3, f"{len(rounds)} rounds finished, not 3"
assert best > 0, "no round was promoted"
rate = rounds[best - 1]["win_rate_vs_start"]
assert rate["n"] >= 256, f"{rate['n']} held-out prompts are fewer than 256"
assert rate["value"] >= 0.85, f"win rate {rate['value']:.3f} against the start is below 0.85"
assert rate["low"] >= 0.80, f"the lower bound {rate['low']:.3f} of the win rate is below 0.80"
interval = f"{rate['value']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}]"
print(f"champion round {best}: win rate {interval} against the start, n = {rate['n']}")
