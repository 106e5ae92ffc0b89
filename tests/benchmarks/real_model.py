"""One public recipe, from real human preferences to a gated policy: `make real`.

Splits preference pairs into two halves that share no prompt and trains a reward model on each: one is the judge, the
other evaluates. Runs `conf/smollm2.yaml` for three rounds and, beside it, one round of offline DPO on the first half's
pairs themselves, each with two seeds. Then every model answers fresh prompts that no gate saw, and the held-out judge
compares them. Every step is a `ratchet` command that is printed; all of them go on after an interruption.

Writes `figures.json`, `figures.md` and `win_rates.png` into `runs/real`.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measuring import conditions, write_result
from real.audit import answer, head_to_head
from real.figures import as_markdown, plot_win_rates
from real.inputs import Inputs, write_inputs

from components.artifacts import read_json, write_json
from components.campaign.models import model_of_round
from components.config import load_config, read_settings

ROOT = Path(__file__).resolve().parents[2]
CONFIG, REWARDS = ROOT / "conf" / "smollm2.yaml", ROOT / "conf" / "reward_models" / "smollm2.yaml"
PAIRS = "Anthropic/hh-rlhf"
JUDGES = ("judge", "evaluation_judge")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="start model: a local directory or a hub name, instead of the file's")
    parser.add_argument("--pairs", default=PAIRS, help=f"preference pairs: a file or a hub name; {PAIRS} if left out")
    parser.add_argument("--split", default="train", help="split of the pairs, if they have splits")
    parser.add_argument("--limit", type=int, default=1100, help="most pairs to take")
    parser.add_argument("--held-out", type=int, default=128, help="held-out prompts of the gate")
    parser.add_argument("--audit", type=int, default=160, help="most fresh prompts of the comparison at the end")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="seeds of the campaigns")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "real", help="folder of everything")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="KEY=VALUE for the campaigns")
    return parser.parse_args()


class Recipe:
    """The commands of the recipe, and the seconds that each took, over all starts."""

    def __init__(self, chosen: argparse.Namespace, inputs: Inputs) -> None:
        self.out, self.inputs = chosen.out, inputs
        self.seconds: dict[str, float] = read_json(self._seconds) if self._seconds.exists() else {}
        self.model = [f"policy.model={chosen.model}"] if chosen.model else []
        places = {"train": inputs.prompts, "held_out": inputs.held_out}
        self.settings = [
            *self.model,
            *(f"prompts.{name}={path}" for name, path in places.items()),
            f"prompts.num_held_out={chosen.held_out}",
            *(f"{judge}.model={chosen.out / judge / 'reward_model'}" for judge in JUDGES),
            *chosen.settings,
        ]

    @property
    def _seconds(self) -> Path:
        return self.out / "seconds.json"

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the block's seconds to the step's, also if it fails."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started
            write_json(self._seconds, self.seconds)

    @property
    def config(self) -> Any:
        """Return the configuration of the campaigns, but for name and seed."""
        return load_config(CONFIG, read_settings(self.settings))

    def ratchet(self, name: str, *words: object) -> None:
        """Run a command; what it prints goes to the terminal and to `name.log`."""
        command = [str(Path(sys.executable).with_name("ratchet")), *map(str, words)]
        print(f"\n$ ratchet {' '.join(map(str, words))}", flush=True)
        with self.timed(name), (self.out / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=os.environ | {"RATCHET_RUNS": str(self.out / "runs")},
            )
            assert process.stdout is not None
            for line in process.stdout:
                sys.stdout.buffer.write(line)
                sys.stdout.buffer.flush()
                log.write(line)
            code = process.wait()
        if code:
            raise SystemExit(f"`ratchet {words[0]}` failed with exit code {code}: see {name}.log")

    def judges(self) -> dict[str, Any]:
        """Train both reward models, and ask each about the people of the other half."""
        measured = {}
        for judge, own, other in zip(JUDGES, self.inputs.pairs, self.inputs.pairs[::-1], strict=True):
            base = self.config.policy.model
            self.ratchet(judge, "reward-model", own, "--base", base, "--out", self.out / judge, "--config", REWARDS)
            config = self.out / f"{judge}.yaml"
            config.write_text(
                f"campaign: {judge}\njudge: {{kind: reward_model, model: {self.out / judge / 'reward_model'}}}\n"
            )
            people = self.out / f"{judge}_and_people"
            self.ratchet(people.name, "calibrate", other, "--config", config, "--out", people)
            measured[judge] = {
                "training": read_json(self.out / judge / "reward_model" / "reward_model.json"),
                "people": read_json(next(people.rglob("calibration.json"))),
            }
        return measured

    def campaigns(self, seed: int) -> dict[str, Path]:
        """Run three rounds, and one round of offline DPO on the pairs of the people that the judge was trained on."""
        offline = [
            f"preferences.seed_pairs={self.inputs.pairs[0]}",
            "validation.max_quarantine_share=1",
            # About as many steps as three rounds make.
            "training.epochs=1",
        ]
        for name, rounds, more in ((f"rounds-{seed}", 3, []), (f"offline-{seed}", 1, offline)):
            words = [word for setting in (*self.settings, *more) for word in ("--set", setting)]
            if not self._is_done(name, rounds):
                self.ratchet(name, "run", CONFIG, "--campaign", name, "--seed", seed, "--rounds", rounds, *words)
        return {name: self.out / "runs" / f"{name}-{seed}" for name in ("rounds", "offline")}

    def _is_done(self, name: str, rounds: int) -> bool:
        state = self.out / "runs" / name / "campaign.json"
        return state.is_file() and len(read_json(state)["rounds"]) >= rounds


def main() -> None:
    """Run the recipe and write its figures."""
    chosen = arguments()
    before = conditions()
    inputs = write_inputs(
        chosen.pairs,
        chosen.out,
        split=chosen.split,
        limit=chosen.limit,
        num_held_out=chosen.held_out,
        num_audit=chosen.audit,
    )
    recipe = Recipe(chosen, inputs)
    judges = recipe.judges()
    results = []
    for seed in chosen.seeds:
        results.append(_result_of_seed(recipe, seed))
        summary = {
            "judges": judges,
            "seeds": results,
            "seconds": recipe.seconds | {"all": sum(recipe.seconds.values())},
        }
        write_result(chosen.out / "figures.json", before=before, summary=summary, samples=[])
        (chosen.out / "figures.md").write_text(as_markdown(summary), encoding="utf-8")
        plot_win_rates(summary, chosen.out / "win_rates.png")
    print(as_markdown(summary))


def _result_of_seed(recipe: Recipe, seed: int) -> dict[str, Any]:
    """Run the campaigns of a seed and compare their models, or read what an earlier start found."""
    file = recipe.out / f"seed-{seed}.json"
    found: dict[str, Any] = read_json(file) if file.exists() else {}
    if found.get("settings") == recipe.settings:
        return found
    places = recipe.campaigns(seed)
    models = {"start": model_of_round(places["rounds"], 0)}
    models |= {f"round {number}": model_of_round(places["rounds"], number) for number in (1, 2, 3)}
    models["offline"] = model_of_round(places["offline"], 1)
    with recipe.timed(f"audit-{seed}"):
        answers = answer(models, recipe.config, recipe.inputs.audit, seed=seed)
    result = {
        "seed": seed,
        "settings": recipe.settings,
        "campaigns": {name: read_json(place / "campaign.json") for name, place in places.items()},
        "mean_tokens": {name: float(each.lengths.mean()) for name, each in answers.items()},
        "audit": {
            f"{one} over {other}": _as_json(head_to_head(answers[one], answers[other]))
            for place, one in enumerate(models)
            for other in list(models)[:place]
        },
    }
    write_json(file, result)
    return result


def _as_json(compared: Any) -> dict[str, Any]:
    return {name: interval.model_dump() for name, interval in compared._asdict().items()}


if __name__ == "__main__":
    main()
