"""What training costs as the work grows: more pairs, longer sequences, more ranks.

- pairs: the whole stage over 1,000 to 64,000 short pairs (tables read, tokenised, packed, reference pass, training,
  saved and reloaded), on a model so small that what surrounds it weighs most. Time should be linear, and memory should
  grow by what a pair takes, and no faster.
- length: the training step over sequences of 512 to 8,192 tokens, as many tokens in every step. Time of a sequence
  should lie between linear and quadratic (attention), and memory of a step should hardly grow.
- ranks: the same stage on one process and on two, one thread each. Two should take half the time of the steps; start-up
  stays.
- weak: as many pairs a step for each process. Two should take the time of one, and take more by what they wait for each
  other.

Every point runs in a process of its own. A slope is the exponent of a power law, fitted to the logarithms of what is
above the least stage (`FEWEST` pairs), since loading a model and saving it cost the same for any number of pairs.

Writes `growth.json` and `growth.png` into `runs/bench`.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measuring import conditions, write_result

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE / "training")]

FEWEST = 64
"""Pairs of the stage whose cost counts as fixed."""
TOKENS_PER_STEP = 12288
EXPECTED = {
    ("pairs", "wall_seconds"): (0.9, 1.1),
    ("pairs", "cpu_seconds"): (0.9, 1.1),
    ("pairs", "peak_bytes"): (0.0, 1.1),
    ("length", "wall_seconds"): (1.0, 2.0),
    ("length", "cpu_seconds"): (1.0, 2.0),
    ("length", "peak_bytes"): (0.0, 0.5),
    ("ranks", "step_seconds"): (-1.0, -0.7),
    # 0.234: a rank of two does 0.85 of the work of one alone.
    ("weak", "step_seconds"): (0.0, 0.234),
}
"""Slopes that a sweep may have."""
TEMPLATE = (
    "{% for message in messages %}{{ message.content + ' ' }}"
    "{% if message.role == 'assistant' %}{{ '</s> ' }}{% endif %}{% endfor %}"
)


def stage_task(directory: Path, shape_name: str, profile: Any, count: int, seed: int) -> Any:
    """Write a model, its tokenizer and tables of pairs into a directory, and return the request to train on them."""
    import pandas as pd
    import torch
    from shapes import SHAPES, tokenizer, triples
    from transformers import LlamaConfig, LlamaForCausalLM

    from components.artifacts import file_digest, write_table
    from components.config import ConstraintsConfig, LoraConfig, PolicyConfig, SoftPromptConfig, TrainingConfig
    from components.data.content import HeldOutContents
    from components.data.messages import format_messages
    from components.data.prompts import prompt_id
    from components.models.loading import start_ref
    from components.models.tokens import ChatTokenizer
    from components.records import Artifact, TrainRequest
    from components.validation.semantics import encode

    shape = SHAPES[shape_name]
    torch.manual_seed(5)
    # Not of the Qwen2 family: transformers reads any tokenizer beside such a model as Qwen's own.
    LlamaForCausalLM(LlamaConfig(**shape.sizes)).save_pretrained(directory / "start")
    words = tokenizer(shape.vocabulary)
    words.chat_template = TEMPLATE
    words.save_pretrained(directory / "start")
    limits = PolicyConfig(dtype="float32", max_prompt_tokens=1024, max_response_tokens=1024)
    rows = []
    for pair in triples(profile, count + 8, shape.vocabulary, longest=1024, seed=seed):
        text = pair.as_text()
        messages = [{"role": "user", "content": text["prompt"].strip()}]
        answers = {name: text[name].removesuffix(" </s>") for name in ("chosen", "rejected")}
        row = {
            "prompt": format_messages(messages),
            "prompt_id": prompt_id(messages),
            "p": 1.0,
            "tag": "",
            "weight": 1.0,
        }
        rows.append(row | answers)
    tables = {}
    for name, part in (("train", rows[:count]), ("eval", rows[count:])):
        table = pd.DataFrame(part)
        encoded = encode(table, ChatTokenizer(words), limits=limits, held_out=HeldOutContents((), "content"))
        write_table(directory / f"{name}.parquet", table.assign(**encoded.tokens))
        tables[name] = Artifact(path=directory / f"{name}.parquet", digest=file_digest(directory / f"{name}.parquet"))
    start = start_ref(directory / "start", revision="main")
    return TrainRequest(
        policy=start,
        reference=start,
        train=tables["train"],
        eval=tables["eval"],
        limits=limits,
        lora=LoraConfig(),
        soft_prompt=SoftPromptConfig(),
        training=TrainingConfig(learning_rate=1e-4, pairs_per_step=64, micro_batch_tokens=4096),
        constraints=ConstraintsConfig(),
        round=1,
        seed=seed,
    )


def write_task(task: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Write what a stage reads. This task has its own process too, so that its memory is not counted as the stage's."""
    from shapes import Profile

    request = stage_task(directory, task["shape"], Profile(*task["profile"]), task["pairs"], seed=1)
    if "pairs_per_step" in task:
        request = request.model_copy(
            update={"training": request.training.model_copy(update={"pairs_per_step": task["pairs_per_step"]})}
        )
    (directory / "request.json").write_text(request.model_dump_json())
    return {}


def run_stage_task(task: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Run the stage as a round runs it, without the seconds in which this process imports what it needs."""
    import components.dpo.stage  # noqa: F401
    from components.dpo.engine import join_process_group
    from components.records import TrainRequest
    from components.runtime.launch import Placement, run_stage

    if task["ranks"] == 1:
        join_process_group()
    request = TrainRequest.model_validate_json((directory / "request.json").read_text())
    wall, cpu = time.perf_counter(), cpu_seconds()
    manifest = run_stage("dpo_train", request, directory, where=Placement(num_processes=task["ranks"]))
    took = {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": cpu_seconds() - cpu}
    lines = [json.loads(line) for line in (directory / "dpo_train" / "metrics.jsonl").read_text().splitlines()]
    per_step = request.training.pairs_per_step
    counts = [min(per_step, task["pairs"] - number * per_step) for number in range(len(lines))]
    # The first step warms up.
    seconds = [count / line["pairs_per_second"] for count, line in zip(counts, lines, strict=True)][1:]
    return took | {"peak_bytes": manifest.peak_memory_bytes, "step_seconds": sum(seconds)}


def cpu_seconds() -> float:
    """Return the processor seconds of this process and of its children that have ended."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in usage)


def run_step_task(task: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Run training steps over sequences of one length."""
    import torch
    from ours import Ours
    from shapes import SHAPES, Profile, triples

    from components.runtime.machine import keep_freed_memory

    keep_freed_memory()
    shape, half = SHAPES[task["shape"]], task["length"] // 2
    per_step = TOKENS_PER_STEP * 2 // (3 * task["length"])
    profile = Profile(half, half, spread=0.0)
    pairs = triples(profile, per_step * 3, shape.vocabulary, longest=task["length"])
    ours = Ours(shape, pairs, dtype=torch.float32, pairs_per_step=per_step, max_tokens=TOKENS_PER_STEP)
    ours.step()
    walls, cpus = [], []
    for _ in range(2):
        wall, cpu = time.perf_counter(), time.process_time()
        ours.step()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    # Of a sequence: there are two in a pair.
    return {"wall_seconds": min(walls) / per_step / 2, "cpu_seconds": min(cpus) / per_step / 2, "peak_bytes": peak}


TASKS: dict[str, Callable[[dict[str, Any], Path], dict[str, Any]]] = {
    "write": write_task,
    "stage": run_stage_task,
    "steps": run_step_task,
}


def work(task: dict[str, Any], directory: Path) -> None:
    """Run a task in this process and print its result."""
    print(json.dumps(TASKS[task["kind"]](task, directory)))


def measured(task: dict[str, Any], directory: Path, threads: int) -> dict[str, Any]:
    """Run a task in a fresh process and return its result."""
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": str(threads),
    }
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, __file__, "--task", json.dumps(task), "--directory", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{task}: {done.stderr[-3000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def point(sweep: str, number: int, given: argparse.Namespace) -> dict[str, Any]:
    """Make one measurement at a number of pairs, a sequence length or a number of ranks."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        if sweep == "length":
            found = measured({"kind": "steps", "shape": "tiny", "length": number}, directory, given.threads)
        else:
            pairs, ranks, threads = (number, 1, given.threads) if sweep == "pairs" else (given.rank_pairs, number, 1)
            pairs *= number if sweep == "weak" else 1
            task: dict[str, Any] = {"pairs": pairs, "ranks": ranks, "shape": "micro", "profile": [12, 8, 0.4]}
            if sweep in ("ranks", "weak"):
                per_step = 16 * number if sweep == "weak" else 16
                task |= {"shape": "tiny", "profile": [127, 59, 0.6], "pairs_per_step": per_step}
            measured(task | {"kind": "write"}, directory, threads)
            found = measured(task | {"kind": "stage"}, directory, threads)
    return {"sweep": sweep, "number": number, "load": os.getloadavg()[0]} | found


def slope(points: Sequence[dict[str, Any]], fixed: dict[str, Any] | None, measure: str) -> float:
    """Return the exponent of a power law through the points: least squares on logarithms, without the fixed part."""
    base = 0.0 if fixed is None else fixed[measure]
    rest = [max(one[measure] - base, 1e-9) for one in points]
    exponent, _ = np.polyfit(np.log([one["number"] for one in points]), np.log(rest), 1)
    return float(exponent)


def middle(samples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the medians over the repeats, by number."""
    numbers = sorted({one["number"] for one in samples})
    measures = sorted({name for one in samples for name in one} - {"sweep", "number", "load"})
    return [
        {"number": number}
        | {name: float(np.median([one[name] for one in samples if one["number"] == number])) for name in measures}
        for number in numbers
    ]


def fitted(sweep: str, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return medians, and slopes with their expected ranges."""
    points = middle(samples)
    fixed = next((one for one in points if sweep == "pairs" and one["number"] == FEWEST), None)
    grown = [one for one in points if one is not fixed]
    slopes = {}
    for (of, measure), (low, high) in EXPECTED.items():
        if of == sweep and len(grown) > 1:
            found = slope(grown, fixed, measure)
            slopes[measure] = {
                "exponent": found,
                "expected": [low, high],
                "as_expected": low - 0.05 <= found <= high + 0.05,
            }
    result: dict[str, Any] = {"points": points, "slopes": slopes}
    if sweep == "pairs" and len(grown) > 1:
        result["bytes_of_one_more"] = (grown[-1]["peak_bytes"] - grown[-2]["peak_bytes"]) / (
            grown[-1]["number"] - grown[-2]["number"]
        )
    return result


def show(sweep: str, result: dict[str, Any]) -> None:
    """Print the table."""
    print(f"\n{sweep:>8} {'wall s':>10} {'CPU s':>10} {'steps s':>10} {'peak MiB':>10}")
    for one in result["points"]:
        steps = f"{one['step_seconds']:10.2f}" if "step_seconds" in one else f"{'':10}"
        seconds = f"{one['wall_seconds']:10.2f} {one['cpu_seconds']:10.2f} {steps}"
        print(f"{one['number']:8d} {seconds} {one['peak_bytes'] / 2**20:10.0f}")
    if "bytes_of_one_more" in result:
        print(f"  between the largest two, one more takes {result['bytes_of_one_more'] / 2**10:.1f} KiB")
    for measure, found in result["slopes"].items():
        low, high = found["expected"]
        word = "as expected" if found["as_expected"] else "NOT AS EXPECTED"
        print(f"  {measure} grows with the power {found['exponent']:.2f} ({low} to {high}): {word}", flush=True)


TITLES = {
    "pairs": ("training stage by pairs", "pairs"),
    "length": ("a sequence in training by its length", "tokens of prompt and answer"),
    "ranks": ("steps of one training by ranks", "processes of one thread"),
    "weak": ("as many pairs for each rank", "processes of one thread"),
}


POWERS = {
    "pairs": ((1, "--"),),
    "length": ((1, "--"), (2, ":")),
    "ranks": ((-1, "--"),),
    "weak": ((0, "--"),),
}
"""Powers of the lines that a sweep is drawn beside."""


def plot(path: Path, results: dict[str, dict[str, Any]]) -> None:
    """Draw seconds above and memory below, one column per sweep, with the line of the expected power."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, StrMethodFormatter

    figure, axes = plt.subplots(2, len(results), figsize=(5 * len(results), 7), layout="constrained", squeeze=False)
    for column, (sweep, result) in enumerate(results.items()):
        numbers = np.array([one["number"] for one in result["points"]], dtype=float)
        seconds = "step_seconds" if sweep in ("ranks", "weak") else "wall_seconds"
        values = np.array([one[seconds] for one in result["points"]])
        upper, lower = axes[0, column], axes[1, column]
        exponent, above = (
            result["slopes"].get(seconds, {}).get("exponent"),
            " above the least" if sweep == "pairs" else "",
        )
        upper.loglog(
            numbers, values, "o-", label="measured" if exponent is None else f"measured: power {exponent:.2f}{above}"
        )
        for power, style in POWERS[sweep]:
            anchor = -1 if sweep == "pairs" else 0
            upper.loglog(
                numbers,
                values[anchor] * (numbers / numbers[anchor]) ** power,
                style,
                color="gray",
                label=f"power {power}",
            )
        upper.set_title(TITLES[sweep][0])
        upper.set_ylabel("seconds")
        peaks = [one["peak_bytes"] / 2**20 for one in result["points"]]
        lower.semilogx(numbers, peaks, "o-", color="tab:orange")
        lower.set_ylim(0, 1.15 * max(peaks))
        lower.set_ylabel("peak memory, MiB, all ranks")
        for axis in (upper, lower):
            axis.set_xlabel(TITLES[sweep][1])
            axis.xaxis.set_major_locator(FixedLocator(list(numbers)))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.set_xticklabels([f"{number:,.0f}" for number in numbers])
            axis.grid(alpha=0.3)
        for axis in (upper.yaxis, lower.yaxis):
            axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        upper.yaxis.set_minor_formatter(
            StrMethodFormatter("{x:,g}") if values.max() < 5 * values.min() else NullFormatter()
        )
        upper.legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--sweeps", nargs="+", default=list(TITLES), choices=list(TITLES))
    parser.add_argument("--pairs", type=int, nargs="+", default=[1000, 4000, 16000, 64000])
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rank-pairs", type=int, default=112, help="pairs of the training whose ranks vary")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="of one process; in the sweep of ranks each has one"
    )
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.task is not None:
        work(given.task, given.directory)
        return
    before, samples, results = conditions(), [], {}
    numbers = {"pairs": [FEWEST, *given.pairs], "length": given.lengths, "ranks": given.ranks, "weak": given.ranks}
    for sweep in given.sweeps:
        # Repeats go round all numbers, so that a slow quarter of an hour falls on all of them.
        mine = [point(sweep, number, given) for _ in range(given.repeats) for number in numbers[sweep]]
        samples += mine
        results[sweep] = fitted(sweep, mine)
        show(sweep, results[sweep])
    write_result(given.out / "growth.json", before=before, summary=results, samples=samples)
    plot(given.out / "growth.png", results)


if __name__ == "__main__":
    main()
