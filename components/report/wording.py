"""Format numbers and verdicts for people: one form for each, everywhere. Reads no files."""

from collections.abc import Mapping
from typing import Any

from components.campaign.state import Rollback
from components.records import Interval
from components.statistics.diversity import COLLAPSED

NOTHING = "\u2013"
"""Shown for a missing value; never a zero."""

SHORT_STAGES = {
    "generate_responses": "generate",
    "collect_preferences": "collect",
    "validate_data": "validate",
    "dpo_train": "train",
    "evaluate": "evaluate",
    "promote": "promote",
}


def decimal(value: float | None, places: int) -> str:
    """Format a number with a fixed count of decimal places and a true minus sign."""
    return NOTHING if value is None else f"{value:.{places}f}".replace("-", "\u2212")


def count(value: int | None) -> str:
    """Format a count with thousands separators."""
    return NOTHING if value is None else f"{value:,}"


def share(value: float | None) -> str:
    """Format a share in [0, 1] as a percentage."""
    return NOTHING if value is None else f"{100 * value:.1f} %"


def share_interval(interval: Interval | None) -> str:
    """Format a share with its interval in brackets, in percent."""
    if interval is None:
        return NOTHING
    return f"{100 * interval.value:.0f} % ({100 * interval.low:.0f}\u2013{100 * interval.high:.0f})"


def estimate(interval: Interval, places: int) -> str:
    """Format an estimate with its interval in brackets."""
    return f"{decimal(interval.value, places)} ({decimal(interval.low, places)} to {decimal(interval.high, places)})"


def duration(seconds: float | None) -> str:
    """Format a duration in seconds, or in minutes and hours if it is long."""
    if seconds is None:
        return NOTHING
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{seconds / 60:.1f} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def memory(num_bytes: int | None) -> str:
    """Format bytes in GiB."""
    return NOTHING if num_bytes is None else f"{num_bytes / 2**30:.2f} GiB"


def short_digest(digest: str) -> str:
    """Return the first digits of a digest: enough to tell two apart by eye."""
    return digest[:10]


def comparison(interval: Interval, opponent: str, confidence: float) -> str:
    """Describe a win rate with its interval, and whether it proves a difference."""
    if interval.low > 0.5:
        verdict = "better, beyond chance"
    elif interval.high < 0.5:
        verdict = "worse, beyond chance"
    else:
        verdict = "no proof of a difference"
    return (
        f"wins {decimal(interval.value, 3)} of the comparisons with {opponent} on {count(interval.n)} held-out prompts "
        f"({100 * confidence:g} % interval {decimal(interval.low, 3)} to {decimal(interval.high, 3)}): {verdict}"
    )


def scoring_path(trained: Mapping[str, Any]) -> str | None:
    """Name the forward path of a round's training, with the reason if it is padded; None if it was not recorded.

    Args:
        trained: Content of train.json.
    """
    path = trained.get("scoring")
    if path is None:
        return None
    return "packed" if path["packed"] else f"padded: {path['reason']}"


def sampling_path(generated: Mapping[str, Any]) -> str | None:
    """Name the way in which a round's responses were sampled, with the reason if it is a slower one; None if unknown.

    Args:
        generated: Content of generate.json.
    """
    path = generated.get("sampling")
    if path is None:
        return None
    return path["way"] if path["reason"] is None else f"{path['way']}: {path['reason']}"


MANY_UNFINISHED = 0.2
"""Share of unfinished or of empty responses from which on a start is told what to change."""


def start_training(start: Mapping[str, Any] | None) -> list[str]:
    """Describe what round 0 has to do with demonstrations: how the start model was trained on some, what rounds learn.

    Args:
        start: Content of start.json; None if nothing is published.
    """
    sft, demonstrated = ((start or {}).get(name) for name in ("sft", "demonstrations"))
    lines = []
    if demonstrated is not None:
        left_out = "; ".join(f"{count(number)} x {reason}" for reason, number in demonstrated["left_out"].items())
        lines.append(
            f"rounds learn from {count(demonstrated['answers'])} demonstrations for {count(demonstrated['prompts'])} "
            f"prompts{f'; left out: {left_out}' if left_out else ''}"
        )
    if sft is None:
        return lines
    held_out = sft["held_out"]
    return [
        *lines,
        f"the start model was trained on {count(sft['train']['rows'])} demonstrations: held-out loss "
        f"{decimal(held_out['before']['loss'], 4)} before and {decimal(held_out['after']['loss'], 4)} after, in nats "
        "per token",
    ]


def start_answers(measured: Mapping[str, Any]) -> str:
    """Describe in one line how the start model answered in round 0.

    Args:
        measured: `measured` of start.json.
    """
    unfinished, empty = (Interval.model_validate(measured[f"{name}_share"]) for name in ("unfinished", "empty"))
    return (
        f"{share(unfinished.value)} of the start model's answers are cut at policy.max_response_tokens = "
        f"{measured['max_response_tokens']} ({share(unfinished.low)} to {share(unfinished.high)}) and "
        f"{share(empty.value)} are empty, on {count(unfinished.n)} held-out prompts; "
        f"{decimal(measured['mean_tokens'], 1)} tokens an answer, {decimal(measured['tokens_per_second'], 0)} tokens/s"
    )


def start_remedies(measured: Mapping[str, Any] | None, *, max_unfinished_share: float) -> list[str]:
    """Return what to change if many of the start model's answers are cut or empty; nothing if it was not measured.

    Args:
        measured: `measured` of start.json; earlier versions did not measure it.
        max_unfinished_share: The gate's absolute limit.
    """
    if measured is None:
        return []
    unfinished, empty = (Interval.model_validate(measured[f"{name}_share"]) for name in ("unfinished", "empty"))
    lines = []
    if unfinished.value >= MANY_UNFINISHED:
        lines.append(
            f"{share(unfinished.value)} of the start model's answers are cut: raise policy.max_response_tokens = "
            f"{measured['max_response_tokens']}; cut answers are judged, and trained on, without their end"
        )
    if empty.value >= MANY_UNFINISHED:
        lines.append(
            f"{share(empty.value)} of the start model's answers are empty: check its chat template and the prompts"
        )
    if unfinished.low + empty.low > max_unfinished_share:
        lines.append(
            f"gate.max_unfinished_share = {max_unfinished_share:g} refuses every round that answers as the start does: "
            "set it to 1, and max_unfinished_increase to 0.05, which compares with the champion"
        )
    return lines


def broken_checks(validation: Mapping[str, Any]) -> str | None:
    """Name the data checks that are above their limits in one line; None if there are none.

    Args:
        validation: Content of validation.json; earlier versions had no checks.
    """
    names = {
        verdict: [check["name"] for check in validation.get("checks", []) if check["verdict"] == verdict]
        for verdict in ("warn", "fail")
    }
    broken = names["fail"] + names["warn"]
    if not broken:
        return None
    return f"data checks: {len(names['warn'])} warn, {len(names['fail'])} fail: {', '.join(broken)} (see the report)"


def collapse(generated: Mapping[str, Any]) -> str | None:
    """Say that sampling has collapsed; None if it has not, or was not measured.

    Args:
        generated: Content of generate.json.
    """
    all_equal = (generated.get("diversity") or {}).get("all_equal")
    if all_equal is None or all_equal <= COLLAPSED:
        return None
    return (
        f"{share(all_equal)} of the prompts got equal samples only, and such prompts give no pairs: raise "
        "generation.temperature, leave generation.top_k at 0, or roll back to an earlier champion"
    )


def model_name(round_: int) -> str:
    """Name a round's model."""
    return "the start model" if round_ == 0 else f"round {round_}"


def rollback_line(rollback: Rollback) -> str:
    """Describe a rollback in one line."""
    at = rollback.at.replace("T", " ").removesuffix("+00:00")
    change = f"rolled back from {model_name(rollback.former)} to {model_name(rollback.to)}"
    return f"{change} after round {rollback.after_round}, {at} UTC"


def stage_name(stage: str) -> str:
    """Name a stage in one word."""
    return SHORT_STAGES.get(stage, stage)


def outcome(value: float | None) -> str:
    """Name a comparison's outcome for the challenger: 1 win, 0.5 tie, 0 loss."""
    if value is None:
        return "unjudged"
    return "win" if value == 1.0 else "loss" if value == 0.0 else "tie" if value == 0.5 else f"{value:.2f}"
