"""A reward that a campaign inferred, on the terminal and in MLflow."""

from pathlib import Path
from typing import Any

from rich.console import Console

from components.artifacts import read_json
from components.records import Interval
from components.report.wording import count
from flows.terminal.rounds import print_table

NOT_MEASURED = (
    "not measured: no demonstration of the campaign answers a held-out prompt; name some that it did not train on with "
    "--demonstrations FILE"
)


def print_inferred_reward(console: Console, directory: Path) -> None:
    """Print how good a reward is on held-out demonstrations, and how to judge with it.

    Args:
        console: Console to print on.
        directory: Directory that the stage `inferred_reward` published.
    """
    result = read_json(directory / "inferred_reward.json")
    measured = result["held_out"]
    lines = [
        f"\nthe reward is {result['beta']:g} x the log-ratio of round {result['round']} and the start model of "
        f"campaign {result['campaign']}"
    ]
    if measured is None:
        _print(console, [*lines, NOT_MEASURED])
    else:
        prompts = count(measured["compared_prompts"])
        lines.append(
            f"how often a demonstration is above the start model's own answers, on {prompts} prompts that no round "
            "trained on:"
        )
        _print(console, lines)
        print_table(console, _rows(measured))
        _print(console, _notes(measured))
    lines = [f"left out: {count(number)} x {reason}" for reason, number in result["left_out"].items()]
    places = (
        ("reward", directory),
        ("figures", directory / "inferred_reward.json"),
        ("judge", f"judge: {{kind: inferred_reward, model: {directory}}}"),
    )
    _print(console, [*lines, *(f"{name:<8} {place}" for name, place in places)])


def record_in_mlflow(campaign: Path, directory: Path) -> str | None:
    """Add the measures to the run of the reward's round, if there are any; return why that failed, or None."""
    result = read_json(directory / "inferred_reward.json")
    if result["held_out"] is None:
        return None
    from components.tracking import NameTaken, TrackingRefused, TrackingUnavailable, record_inferred_reward

    try:
        known = record_inferred_reward(campaign, result)
    except (NameTaken, TrackingRefused, TrackingUnavailable) as error:
        return f"the measures are not in MLflow: {error}"
    return None if known else f"the measures are not in MLflow, which lacks round {result['round']}"


def _rows(measured: dict[str, Any]) -> list[dict[str, str]]:
    rows = [_row("inferred reward", measured["reward"])]
    if "against" in measured:
        rows.append(_row("reward model", measured["against"]))
    return [*rows, {"judge": "chance", "right": "0.500", "above chance": "", "not scored": ""}]


def _row(name: str, judged: dict[str, Any]) -> dict[str, str]:
    rate = "" if judged["accuracy"] is None else _interval(Interval.model_validate(judged["accuracy"]))
    return {
        "judge": name,
        "right": rate,
        "above chance": "yes" if judged["above_random"] else "not shown",
        "not scored": count(judged["not_scored"]),
    }


def _notes(measured: dict[str, Any]) -> list[str]:
    lines = []
    if measured.get("gain") is not None:
        by = Interval.model_validate(measured["gain"])
        lines.append(f"right more often than the reward model by {_interval(by, sign='+')}")
    if measured["equal"]:
        lines.append(
            f"{count(measured['equal'])} of the start model's {count(measured['own_answers'])} answers say what a "
            "demonstration says, and are left out"
        )
    return lines


def _interval(interval: Interval, sign: str = "") -> str:
    value, low, high = (f"{each:{sign}.3f}" for each in (interval.value, interval.low, interval.high))
    return f"{value} ({low} to {high})"


def _print(console: Console, lines: list[str]) -> None:
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
