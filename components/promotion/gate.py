"""The promotion gate: whether held-out evidence shows that the challenger is better.

A pure function of the evaluation's numbers.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from components.config import GateConfig, RegressionConfig
from components.promotion.regression import findings as regression_findings

NO_REGRESSION = RegressionConfig()


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


def decide(evaluation: Mapping[str, Any], gate: GateConfig, regression: RegressionConfig = NO_REGRESSION) -> Decision:
    """Promote only if the evidence suffices and no guard breaks.

    A number that is missing or not finite refuses the challenger, whatever the other conditions give.

    Args:
        evaluation: The content of evaluation.json.
        gate: The guards' limits.
        regression: The regression suite and its margin.
    """
    findings = [
        _evidence(evaluation, gate.min_win_rate),
        *_holdout(evaluation, gate.max_holdout_loss),
        *_start(evaluation, gate.min_win_rate_vs_start),
        *_length(evaluation, "champion", low=gate.min_length_ratio, high=gate.max_length_ratio),
        *_length(evaluation, "start", low=gate.min_length_ratio_to_start, high=gate.max_length_ratio_to_start),
        _divergence(evaluation, gate.max_kl_to_start),
        _unusable(evaluation, gate.max_unfinished_share),
        *_more_unusable(evaluation, gate.max_unfinished_increase),
        *(Finding(*each) for each in regression_findings(evaluation.get("regression"), regression)),
        *_audit(evaluation),
    ]
    against = tuple(finding.reason for finding in findings if not finding.passed)
    return Decision(False, against) if against else Decision(True, tuple(finding.reason for finding in findings))


def _evidence(evaluation: Mapping[str, Any], least: float) -> Finding:
    value, low, high = (_number(evaluation, "win_rate_vs_champion", part) for part in ("value", "low", "high"))
    e_value, level, judged, prompts = (
        _number(evaluation, "evidence", part) for part in ("e_value", "level", "num_judged", "num_prompts")
    )
    if value is None or low is None or high is None:
        return _unknown("win rate against the champion", "win_rate_vs_champion")
    if e_value is None or level is None or judged is None or prompts is None or level <= 0:
        return _unknown("evidence against the champion", "evidence")
    text = f"win rate {value:.3f} [{low:.3f}, {high:.3f}] against the champion on {judged:.0f} of {prompts:.0f} prompts"
    needed = f"e-value {e_value:.3g}, and level {level:.3g} needs {1 / level:.3g}"
    if _flag(evaluation, "evidence", "shown"):
        return Finding(True, f"{text} is shown to be above {least:g} ({needed})")
    return Finding(False, f"{text} is not shown to be above {least:g} ({needed})")


def _holdout(evaluation: Mapping[str, Any], margin: float) -> list[Finding]:
    """Return nothing without a hold-out judge, or if it was not asked because the evidence does not suffice."""
    if "holdout_judge" not in evaluation:
        return []
    if evaluation["holdout_judge"] is None and not _flag(evaluation, "evidence", "shown"):
        return []
    rate, upper = (_number(evaluation, "holdout_judge", *path) for path in (("win_rate",), ("loss", "upper")))
    if rate is None or upper is None:
        return [_unknown("verdict of the hold-out judge", "holdout_judge")]
    text = f"win rate {rate:.3f} against the champion by the hold-out judge, which prefers the champion by at most"
    return [_guard(upper, margin, f"{text} {upper:.3f}")]


def _start(evaluation: Mapping[str, Any], least: float) -> list[Finding]:
    """Return nothing if the guard is off."""
    if not least:
        return []
    value = _number(evaluation, "win_rate_vs_start", "value")
    if value is None:
        return [_unknown("win rate against the start", "win_rate_vs_start")]
    text = f"win rate {value:.3f} against the start"
    if value < least:
        return [Finding(False, f"{text} is below {least:g}")]
    return [Finding(True, f"{text} is not below {least:g}")]


def _length(evaluation: Mapping[str, Any], opponent: str, *, low: float, high: float) -> list[Finding]:
    """Compare with one opponent's length; a limit of 0 is none, and without both limits there is no finding."""
    if not low and not high:
        return []
    challenger, other = (_number(evaluation, "mean_tokens", name) for name in ("challenger", opponent))
    if challenger is None or other is None or other <= 0:
        return [_unknown(f"mean length of challenger and {opponent}", "mean_tokens")]
    ratio = challenger / other
    text = f"mean length {challenger:.1f} tokens is {ratio:.2f} times the {opponent}'s {other:.1f}"
    if ratio < low:
        return [Finding(False, f"{text}, below the limit {low:g}")]
    return [_guard(ratio, high, text) if high else Finding(True, f"{text}, not below {low:g}")]


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


def _audit(evaluation: Mapping[str, Any]) -> list[Finding]:
    """Refuse a challenger of a champion that an audit doubts; return nothing if none was due or none doubts it."""
    audit = evaluation.get("audit")
    return [Finding(False, f"audit: {text}") for text in audit["contradictions"]] if audit else []


def _guard(value: float, limit: float, text: str) -> Finding:
    return (
        Finding(True, f"{text}, within {limit:g}")
        if value <= limit
        else Finding(False, f"{text}, above the limit {limit:g}")
    )


def _unknown(what: str, key: str) -> Finding:
    return Finding(False, f"{what} is missing from the evaluation or not finite ({key}): no promotion without it")


def _flag(evaluation: Mapping[str, Any], *path: str) -> bool:
    """Return whether the value at a path of keys is true, and not only something that counts as true."""
    value: Any = evaluation
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value is True


def _number(evaluation: Mapping[str, Any], *path: str) -> float | None:
    """Return the finite number at a path of keys; None if there is none."""
    value: Any = evaluation
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None
