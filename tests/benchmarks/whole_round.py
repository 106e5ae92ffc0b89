"""How long a whole round takes from the shell, beside the same round as one plain script of transformers and TRL.

A round: sample answers to every prompt, judge them by a reward model, train one epoch of DPO on best and worst, save,
sample from the new and the old policy to held-out prompts, judge, win rate. Ours is `ratchet run CONFIG` for one round:
with Prefect and its server, MLflow, validation, manifests, gate and report. A peer is `python trl_round.py`: TRL 1.16
with its defaults; TRL 1.16 tuned (no gradient checkpointing, grouped by length, the fastest micro-batch, reference
beforehand where that is faster, prompts and texts sorted, the faster of two generation batches); TRL 1.10, the last
with full logits, tuned alike. Every run is a fresh process: imports and servers count. Each side has run once before,
so what only a first start does (bytecode, the creation of Prefect's database) does not.

Both have the same model, tokenizer, prompts, number of answers, limits, reward model, fp32, threads, allocator settings
and optimizer's settings; their draws differ. Every peer samples, judges and pairs for itself, and then trains on the
pairs that our round made: the same pairs in all runs, so that no side's training is shorter by luck. No pair is kept
for evaluation. The weights are random, so nothing is learnt: the gate refuses our round, and what it says changes no
time. Ours does more that is not taken out: the reference pass over all pairs is checked by ln 2, the saved model is
loaded again and compared, and the KL to the start is measured.

Ratios are of mean seconds; their 95 % intervals are bootstrap intervals over the runs. Memory is the sum over a run's
processes. Writes `round.json` and `round.png` into `runs/bench`. The default takes one to two hours on two cores.
"""

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
from measuring import conditions, ratio_of_means, write_result
from train_step import DEFAULT, LAST_FULL_LOGITS, TUNED, TUNED_OLD, install_old

from components.campaign.files import STAGES as ROUND_STAGES

sys.path.insert(0, str(Path(__file__).resolve().parent / "rounds"))

from inputs import Inputs, make_inputs
from shapes import SHAPES

HERE = Path(__file__).resolve().parent
OURS = "ours"
STAGES = ("start", *ROUND_STAGES)
REST = "start-up and the rest"
MAX_PROMPT_TOKENS = 512
GENERATION_BATCHES = (8, 64)
"""Prompts that a peer decodes together: by its defaults, and the sizes that a tuned one tries; ours takes what fits."""
SEED = 1


class Bench:
    """The files of all runs, and the commands that start a run."""

    def __init__(self, place: Path, inputs: Inputs, given: argparse.Namespace) -> None:
        self.place, self.inputs, self.given = place, inputs, given
        self.config, self.pairs = place / "round.yaml", place / "pairs.jsonl"
        self.config.write_text(json.dumps(self._config()))  # JSON is YAML
        self.runs = 0

    def _config(self) -> dict[str, Any]:
        return {
            "campaign": "round",
            "policy": {
                "model": str(self.inputs.policy),
                "dtype": "float32",
                "max_prompt_tokens": self.inputs.max_prompt_tokens,
                "max_response_tokens": self.inputs.max_new_tokens,
            },
            "prompts": {
                "train": str(self.inputs.prompts),
                "held_out": str(self.inputs.held_out),
                "per_round": self.given.prompts,
                "num_held_out": self.given.held_out,
            },
            "generation": {"samples_per_prompt": self.given.samples},
            "judge": {"kind": "reward_model", "model": str(self.inputs.reward_model), "dtype": "float32"},
            "validation": {"eval_share": 0.0},
            "training": {"learning_rate": self.given.learning_rate, "pairs_per_step": self.given.pairs_per_step},
        }

    def ours(self) -> dict[str, Any]:
        """Run our round, as a campaign of its own."""
        self.runs += 1
        name = f"round-{self.runs}"
        sample = self._measured([sys.executable, "-m", "flows.cli", "run", str(self.config), "--campaign", name])
        campaign = self.place / "runs" / name
        (record,) = json.loads((campaign / "campaign.json").read_text())["rounds"]
        pinned = json.loads((campaign / "round-000" / "start" / "MANIFEST.json").read_text())["seconds"]
        pairs = pd.read_parquet(campaign / "round-001" / "validate_data" / "train.parquet")
        if not self.pairs.exists():
            self._keep(pairs)
        words = int(
            pd.read_parquet(campaign / "round-001" / "generate_responses" / "responses.parquet")["text"]
            .str.split()
            .str.len()
            .sum()
        )
        done = {"stages": {"start": pinned} | record["seconds"], "sampled_words": words, "pairs": len(pairs)}
        return sample | _with_rest(done, sample["seconds"])

    def _keep(self, pairs: pd.DataFrame) -> None:
        """Return the pairs as TRL's conversational rows."""
        rows = [
            {"prompt": json.loads(row.prompt)}
            | {side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}
            for _, row in pairs.iterrows()
        ]
        self.pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def peer(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Run a peer's round on the pairs of our first round."""
        self.runs += 1
        out = self.place / f"peer-{self.runs}"
        out.mkdir()
        task = {
            "policy": str(self.inputs.policy),
            "reward_model": str(self.inputs.reward_model),
            "prompts": str(self.inputs.prompts),
            "held_out": str(self.inputs.held_out),
            "pairs": str(self.pairs),
            "num_prompts": self.given.prompts,
            "num_held_out": self.given.held_out,
            "samples": self.given.samples,
            "max_new_tokens": self.inputs.max_new_tokens,
            "pairs_per_step": self.given.pairs_per_step,
            "learning_rate": self.given.learning_rate,
            "seed": SEED + self.runs,
            "out": str(out),
        }
        (out / "settings.json").write_text(json.dumps(task | settings))
        command = [sys.executable, str(HERE / "rounds" / "trl_round.py"), str(out / "settings.json")]
        sample = self._measured(command, packages=settings.get("packages"))
        return sample | _with_rest(json.loads((out / "round.json").read_text()), sample["seconds"])

    def _measured(self, command: Sequence[str], *, packages: str | None = None) -> dict[str, Any]:
        """Run a command to its end.

        Seconds on the clock, processor seconds and most resident bytes of it and all its children.

        Raises:
            RuntimeError: It failed; ends with the last that it said.
        """
        path = os.pathsep.join([*([packages] if packages else []), str(HERE.parents[1])])
        environment = {
            name: value for name, value in os.environ.items() if name not in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI")
        }
        environment |= {
            "PYTHONPATH": path,
            "OMP_NUM_THREADS": str(self.given.threads),
            "RATCHET_RUNS": str(self.place / "runs"),
            "PREFECT_HOME": str(self.place / "prefect"),
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "DO_NOT_TRACK": "1",
        }
        log, peak, used, load = self.place / "run.log", 0, _children_seconds(), os.getloadavg()[0]
        began = time.perf_counter()
        with (
            log.open("w") as said,
            subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=environment) as process,
        ):
            while process.poll() is None:
                peak = max(peak, _resident(process.pid))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.25)
        seconds = time.perf_counter() - began
        if process.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {log.read_text()[-2000:]}")
        return {"seconds": seconds, "cpu_seconds": _children_seconds() - used, "peak_bytes": peak, "load": load}


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _resident(pid: int) -> int:
    """Return the resident bytes of a process and all below it."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += one.memory_info().rss
    return total


def _with_rest(done: dict[str, Any], seconds: float) -> dict[str, Any]:
    return done | {"stages": done["stages"] | {REST: seconds - sum(done["stages"].values())}}


def untuned() -> dict[str, Any]:
    """Return the arguments that leave TRL's settings alone; micro-batches of 8 pairs are TRL's default."""
    return {
        "tuned": False,
        "micro_batch": 8,
        "by_length": False,
        "judge_batch": 16,
        "generation_batch": GENERATION_BATCHES[0],
    }


def tuned(bench: Bench, packages: str | None, micro_batches: Sequence[int], few: int) -> dict[str, Any]:
    """Return the fastest settings of each stage, by a round with a few prompts for each of them."""
    plain = untuned() | {"tuned": True, "by_length": True, "packages": packages, "num_prompts": few, "num_held_out": 1}
    tried = []
    for micro_batch in micro_batches:
        for precompute, generation_batch in zip((False, True), GENERATION_BATCHES, strict=True):
            settings = {"micro_batch": micro_batch, "precompute": precompute, "generation_batch": generation_batch}
            tried.append((bench.peer(plain | settings)["stages"], settings))
    training = min(tried, key=lambda one: one[0]["dpo_train"])[1]
    generation = min(tried, key=lambda one: one[0]["generate_responses"])[1]
    chosen = training | {"generation_batch": generation["generation_batch"]}
    return {name: value for name, value in (plain | chosen).items() if name not in ("num_prompts", "num_held_out")}


def interleaved(bench: Bench, peers: dict[str, dict[str, Any]], repetitions: int) -> Iterator[list[dict[str, Any]]]:
    """Run one round of every system in turn, forwards and backwards.

    Yields all samples so far after each repetition. The first is left out unless it is the only one, since one
    repetition has no interval.
    """
    samples: list[dict[str, Any]] = []
    for number in range(repetitions):
        names = [OURS, *peers] if number % 2 == 0 else [OURS, *peers][::-1]
        for name in names:
            run = bench.ours() if name == OURS else bench.peer(peers[name])
            samples.append({"system": name, "repetition": number, "warm_up": False} | run)
            stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in run["stages"].items())
            whole = f"{run['seconds']:.1f} s, {run['cpu_seconds']:.1f} processor seconds, load {run['load']:.1f}"
            print(f"{name}: {whole}: {stages}", flush=True)
        if number > 0 or repetitions == 1:
            yield samples


def means(samples: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """Return a system's means over its runs, and its most memory."""
    own = [sample for sample in samples if sample["system"] == name]
    stages = {stage: float(np.mean([sample["stages"][stage] for sample in own])) for stage in own[0]["stages"]}
    plain = {key: float(np.mean([sample[key] for sample in own])) for key in ("seconds", "cpu_seconds", "load")}
    return plain | {"peak_bytes": max(sample["peak_bytes"] for sample in own), "stages": stages}


def ratio(samples: Sequence[dict[str, Any]], peer: str) -> dict[str, float]:
    """Return the mean seconds of the peer's rounds over those of ours."""
    ours, theirs = ([one["seconds"] for one in samples if one["system"] == name] for name in (OURS, peer))
    return ratio_of_means(theirs, ours)


def summary(samples: Sequence[dict[str, Any]], peers: Sequence[str]) -> dict[str, Any]:
    """Draw ratios of seconds and of processor seconds with intervals; the lower end against the best peer comes first.

    The stages' seconds.
    """
    ratios = {name: ratio(samples, name) for name in peers}
    on_processor = [sample | {"seconds": sample["cpu_seconds"]} for sample in samples]
    systems = {name: means(samples, name) for name in (OURS, *peers)}
    orchestration = systems[OURS]["stages"][REST]
    return {
        "vs_trl_round_low": min(found["low"] for found in ratios.values()),
        "vs_trl_default_low": ratios[DEFAULT]["low"],
        "ratios": ratios,
        "processor_ratios": {name: ratio(on_processor, name) for name in peers},
        "memory_ratio": systems[OURS]["peak_bytes"] / systems[DEFAULT]["peak_bytes"],
        "our_stages_seconds": systems[OURS]["seconds"] - orchestration,
        "our_other_seconds": orchestration,
        "systems": systems,
    }


def draw(told: dict[str, Any], path: Path) -> None:
    """Draw where each system's seconds go, one bar per system."""
    from matplotlib.figure import Figure

    from components.plots.figures import PAPER, styled, to_png

    colours = dict(
        zip(
            (*STAGES, REST),
            ("#8d99ae", "#1d5fd1", "#0f766e", "#94d2bd", "#b45309", "#be3455", "#5c4d7d", "#c9ccd1"),
            strict=True,
        )
    )
    names = list(told["systems"])[::-1]
    longest = max(system["seconds"] for system in told["systems"].values())
    with styled(PAPER, "round"):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        axes = figure.subplots()
        left = np.zeros(len(names))
        for stage, colour in colours.items():
            seconds = np.array([told["systems"][name]["stages"].get(stage, 0.0) for name in names])
            if seconds.max() < longest / 500:
                continue  # nothing that could be seen
            axes.barh(
                names,
                seconds,
                0.62,
                left=left,
                color=colour,
                edgecolor="white",
                linewidth=0.6,
                label=stage.replace("_", " "),
            )
            for row, (began, width) in enumerate(zip(left, seconds, strict=True)):
                if width > longest / 22:
                    ink = PAPER.ink if stage == REST else "white"
                    axes.text(began + width / 2, row, f"{width:.0f}", ha="center", va="center", color=ink, fontsize=8)
            left += seconds
        for row, name in enumerate(names):
            system, found = told["systems"][name], told["ratios"].get(name)
            reach = f" ({found['low']:.2f} to {found['high']:.2f})" if found and found["n"] > 1 else ""
            times = f"\n{found['ratio']:.2f} times ours{reach}" if found else ""
            axes.text(left[row] + longest / 100, row, f"{system['seconds']:.0f} s{times}", va="center", fontsize=8)
        axes.set_xlim(right=1.28 * longest)
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x")
        axes.set_xlabel("seconds of one round, start of the process to its end")
        figure.legend(loc="outside upper left", ncols=4)
        to_png(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--shape", default="tiny", choices=list(SHAPES))
    parser.add_argument("--repetitions", type=int, default=4, help="rounds of each system")
    parser.add_argument("--prompts", type=int, default=160, help="prompts of the round")
    parser.add_argument("--held-out", type=int, default=64, help="prompts of the comparison")
    parser.add_argument("--samples", type=int, default=4, help="answers to each prompt")
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--pairs-per-step", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-6)
    parser.add_argument(
        "--micro-batches", type=int, nargs="+", default=[1, 2, 4], help="what a tuned TRL is tuned over"
    )
    parser.add_argument("--tuned-on", type=int, default=32, help="prompts of a round that tunes")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--packages", type=Path, default=Path("runs/bench/trl-full-logits"), help="where the older TRL is put"
    )
    given = parser.parse_args()
    before, old = conditions(), str(install_old(given.packages.resolve()))
    with tempfile.TemporaryDirectory(prefix="whole-round-") as place:
        inputs = make_inputs(
            Path(place),
            shape=given.shape,
            num_prompts=given.prompts,
            num_held_out=given.held_out,
            max_prompt_tokens=MAX_PROMPT_TOKENS,
            max_new_tokens=given.max_new_tokens,
            seed=SEED,
        )
        bench = Bench(Path(place), inputs, given)
        bench.ours()  # warms up, and makes the pairs
        peers = {
            DEFAULT: untuned(),
            TUNED: tuned(bench, None, given.micro_batches, given.tuned_on),
            TUNED_OLD: tuned(bench, old, given.micro_batches, given.tuned_on),
        }
        settings = {name: value for name, value in vars(given).items() if name not in ("out", "packages")}
        shown = {
            name: {key: value for key, value in chosen.items() if key != "packages"} for name, chosen in peers.items()
        }
        details = {"peers": shown, "last_full_logits": LAST_FULL_LOGITS, "settings": settings}
        for samples in interleaved(bench, peers, given.repetitions):
            told = summary(samples, list(peers))
            write_result(given.out / "round.json", before=before, summary=told | {"details": details}, samples=samples)
            draw(told, given.out / "round.png")
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
