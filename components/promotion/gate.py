"""The promotion gate: whether held-out evidence shows that the challenger is better.

A pure function of the evaluation's numbers.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from components.config import GateConfig


class Decision(NamedTuple):
    """Whether the challenger replaces the champion, and why.

    The reasons are those for it if it is promoted, and all reasons against it if it is not.
    """

    promoted: bool
    reasons: tuple[str, ...]


class Finding(NamedTuple):
    """The result of one condition of the gate."""

    passed: bool
    reason: str


def decide(evaluation: Mapping[str, Any], gate: GateConfig) -> Decision:
    """Promote only if the win rate's lower bound is above 0.5 and no guard breaks.

    A number that is missing or not finite refuses the challenger, whatever the other conditions give.

    Args:
        evaluation: The content of evaluation.json.
        gate: The guards' limits.
    """
    findings = [
        _win_rate(evaluation),
        _length(evaluation, gate),
        _divergence(evaluation, gate.max_kl_to_start),
        _unusable(evaluation, gate.max_unfinished_share),
        *_more_unusable(evaluation, gate.max_unfinished_increase),
    ]
    against = tuple(finding.reason for finding in findings if not finding.passed)
    return Decision(False, against) if against else Decision(True, tuple(finding.reason for finding in findings))


def _win_rate(evaluation: Mapping[str, Any]) -> Finding:
    path = "win_rate_vs_champion"
    value, low, high = (_number(evaluation, path, part) for part in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return _unknown("win rate against the champion", path)
    text = f"win rate {value:.3f} [{low:.3f}, {high:.3f}] against the champion"
    if low > 0.5:
        return Finding(True, f"{text} is above 0.5")
    return Finding(False, f"{text} is not surely above 0.5, as its lower bound of {low:.4f} must be")


def _length(evaluation: Mapping[str, Any], gate: GateConfig) -> Finding:
    challenger, champion = (_number(evaluation, "mean_tokens", name) for name in ("challenger", "champion"))
    if challenger is None or champion is None or champion <= 0:
        return _unknown("mean length of challenger and champion", "mean_tokens")
    ratio = challenger / champion
    text = f"mean length {challenger:.1f} tokens is {ratio:.2f} times the champion's {champion:.1f}"
    if ratio < gate.min_length_ratio:
        return Finding(False, f"{text}, below the limit {gate.min_length_ratio:g}")
    return _guard(ratio, gate.max_length_ratio, text)


def _divergence(evaluation: Mapping[str, Any], limit: float) -> Finding:
    divergence = _number(evaluation, "kl_to_start")
    if divergence is None:
        return _unknown("KL to the start", "kl_to_start")
    return _guard(divergence, limit, f"KL to the start is {divergence:.2f} nats a response")


def _unusable(evaluation: Mapping[str, Any], limit: float) -> Finding:
    empty, unfinished = (_number(evaluation, name, "challenger") for name in ("empty_share", "unfinished_share"))
    if empty is None or unfinished is None:
        return _unknown("share of empty and of unfinished responses", "empty_share and unfinished_share")
    text = f"share of empty or unfinished responses is {empty + unfinished:.3f}"
    return Finding(True, f"{text}, without a limit") if limit >= 1 else _guard(empty + unfinished, limit, text)


def _more_unusable(evaluation: Mapping[str, Any], limit: float) -> list[Finding]:
    """Return nothing if the guard is off, as it is in campaigns whose evaluations did not measure the increase."""
    if limit >= 1:
        return []
    path = "unfinished_increase"
    value, low, high = (_number(evaluation, path, part) for part in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return [_unknown("change of the share of empty and of unfinished responses", path)]
    change = f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"
    text = f"share of empty or unfinished responses changes by {change} against the champion's"
    if value <= limit:
        return [Finding(True, f"{text}, within {limit:g}")]
    if low <= 0:
        return [Finding(True, f"{text}, above {limit:g} but not surely an increase")]
    return [Finding(False, f"{text}, surely an increase and above the limit {limit:g}")]


def _guard(value: float, limit: float, text: str) -> Finding:
    return (
        Finding(True, f"{text}, within {limit:g}")
        if value <= limit
        else Finding(False, f"{text}, above the limit {limit:g}")
    )


def _unknown(what: str, key: str) -> Finding:
    return Finding(False, f"{what} is missing from the evaluation or not finite ({key}): no promotion without it")


def _number(evaluation: Mapping[str, Any], *path: str) -> float | None:
    """Return the finite number at a path of keys; None if there is none."""
    value: Any = evaluation
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None
