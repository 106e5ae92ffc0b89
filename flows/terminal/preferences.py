"""Judged responses, pairs and a calibration on the terminal."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from components.artifacts import read_json

ENDED = {
    "paired": "with pairs",
    "ties": "tied",
    "below_margin": "below min_margin",
    "no_verdict": "without two verdicts",
    "not_compared": "not compared",
    "not_revised": "not revised",
    "chosen_cut": "whose better responses were cut",
}
HEALTH = {
    "position_consistency": "says the same in both orders",
    "repetition_stability": "says the same when asked again",
    "tie_share": "ties",
    "length_preference": "prefers the longer answer",
}


def print_collected(console: Console, out: Path) -> None:
    """Print the counts of a collection, and the path of its pairs."""
    counts = read_json(out / "collect.json")
    ended = ", ".join(f"{counts[key]} {name}" for key, name in ENDED.items() if counts.get(key))
    _line(console, "prompts", f"{counts['prompts']}: {ended}")
    _line(
        console,
        "verdicts",
        f"{counts['verdicts']} on {counts['responses']} responses, {counts['invalid_verdicts']} invalid",
    )
    _line(console, "pairs", f"{counts['pairs']}, {counts['tied_pairs']} of them with p = 0.5")
    active = counts.get("active")
    if active is not None:
        outcomes = f"agreed on {active['agreed']}, turned {active['flipped']}, {active['ties']} tied"
        _line(console, "costly", f"asked about {active['asked']} pairs: {outcomes}")
    _print_health(console, counts.get("judge_health"))
    _line(console, "written", f"{out}; as round 1's data: preferences: {{seed_pairs: {out / 'preferences.jsonl'}}}")


def print_calibration(console: Console, out: Path) -> None:
    """Print how well the judge agrees with the labels, and the scale that fits."""
    result = read_json(out / "calibration.json")
    quality = result["quality"]
    _line(
        console, "judge", f"{result['judge']}; {result['judged']} of {result['rows']} rows have a label and a verdict"
    )
    _line(console, "agreement", f"{_interval(quality['accuracy'])} with the labels, ties half")
    if len(result["by_tag"]) > 1:
        for tag, measured in result["by_tag"].items():
            _line(console, "", f"{_interval(measured['accuracy'])} {tag}")
    _print_health(console, result["judge_health"])
    _print_reliability(console, quality["reliability"])
    log_loss = f"log loss {result['log_loss']:.3f} (a coin has 0.693)"
    _line(console, "p", f"calibration error {quality['calibration_error']:.3f}, {log_loss}")
    _print_scale(console, result)
    _line(console, "written", str(out))


def _print_reliability(console: Console, bins: list[dict[str, Any]]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("p of its choice", "pairs", "mean p", "is right"):
        table.add_column(name, no_wrap=True)
    for part in bins:
        span, interval = (
            f"{part['low']:.2f} to {part['high']:.2f}",
            f"({part['observed_low']:.3f}–{part['observed_high']:.3f})",
        )
        table.add_row(span, str(part["num_pairs"]), f"{part['predicted']:.3f}", f"{part['observed']:.3f} {interval}")
    console.print(table)


def _print_scale(console: Console, result: dict[str, Any]) -> None:
    scale = result["fitted_soft_label_scale"]
    if scale is None:
        _line(console, "scale", "none fits: the margins say nothing about the labels, or contradict none of them")
        return
    setting = f"preferences: {{soft_labels: bradley_terry, soft_label_scale: {scale:.4g}}}"
    _line(console, "scale", f"{setting} has a log loss of {result['fitted_log_loss']:.3f}")


def _print_health(console: Console, health: dict[str, Any] | None) -> None:
    for key, name in HEALTH.items():
        if health is not None and health[key] is not None:
            _line(console, "judge", f"{name}: {_interval(health[key])}")


def _interval(interval: dict[str, Any]) -> str:
    return f"{interval['value']:.3f} ({interval['low']:.3f}–{interval['high']:.3f})"


def _line(console: Console, name: str, text: str) -> None:
    console.print(f"{name:<10} {text}", highlight=False, soft_wrap=True, markup=False)
