"""A finished reward model on the terminal."""

from pathlib import Path
from typing import Any

from rich.console import Console

from components.artifacts import read_json
from components.records import Interval
from components.report.wording import count, decimal
from flows.terminal.rounds import print_table


def print_reward_model(console: Console, directory: Path) -> None:
    """Print how good a reward model is on held-out pairs, which pairs were left out, and how to judge with it.

    Args:
        console: Console to print on.
        directory: Directory that the stage `reward_model` published.
    """
    result = read_json(directory / "reward_model.json")
    console.print(f"\ntrained on {count(result['num_train_pairs'])} pairs; on pairs of other prompts:", highlight=False)
    print_table(
        console,
        [_row("all", result["held_out"]), *(_row(tag, each) for tag, each in result["held_out_by_tag"].items())],
    )
    for reason, number in result["excluded"].items():
        console.print(f"left out: {count(number)} x {reason}", highlight=False, soft_wrap=True, markup=False)
    if not result["scoring"]["packed"]:
        console.print(
            f"trained in padded rows, which takes more time and memory: {result['scoring']['reason']}",
            highlight=False,
            soft_wrap=True,
            markup=False,
        )
    for name, place in (
        ("model", directory),
        ("plot", directory / "plots" / "reliability.png"),
        ("judge", f"judge: {{kind: reward_model, model: {directory}}}"),
    ):
        console.print(f"{name:<8} {place}", highlight=False, soft_wrap=True, markup=False)


def _row(name: str, measured: dict[str, Any]) -> dict[str, str]:
    accuracy = Interval.model_validate(measured["accuracy"])
    return {
        "pairs of": name,
        "number": count(measured["num_pairs"]),
        "accuracy": f"{decimal(accuracy.value, 3)} ({decimal(accuracy.low, 3)}–{decimal(accuracy.high, 3)})",
        "median margin": decimal(measured["median_margin"], 3),
        "calibration error": decimal(measured["calibration_error"], 3),
        "Brier": decimal(measured["brier"], 3),
    }
