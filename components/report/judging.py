"""Turn measurements of the rounds' judges into rows of text. Reads no files."""

from collections.abc import Mapping
from typing import Any

from components.campaign.files import RoundFiles
from components.judges.function_scores import FunctionScores
from components.judges.health import Health, PartHealth
from components.judges.violations import Violations
from components.records import Interval
from components.report.wording import NOTHING, count, decimal, share, share_interval

HEADINGS = (
    "judge",
    "orders agree",
    "repeats agree",
    "ties",
    "invalid",
    "longer answer wins",
    "winner minus loser",
    "calls",
    "cost",
)
PART_HEADINGS = (
    "juror, principle or function",
    "agrees with the whole",
    "is right, by the whole",
    "orders agree",
    "repeats agree",
)
COSTLY_HEADINGS = ("pairs chosen by", "pairs", "asked", "agreed", "turned", "tied", "invalid", "dropped")
FUNCTION_HEADINGS = ("function", "mean score", "responses scored", "does not apply", "failed")
VIOLATION_HEADINGS = ("principle", "responses checked", "violate it", "share", "no verdict")
NOTE = (
    "How far a judge can be trusted, by its own verdicts. Orders agree: it names the same winner when the two answers "
    "change places; a coin does in 50 %. Repeats agree: a question that was asked twice got the same verdict. The "
    "longer answer wins: among decided comparisons of unequal length; 50 % is no preference for length, and more may "
    "also mean that the longer answers were better. Is right: the mean probability that a juror's winner is better, "
    "given the verdicts of all jurors. Intervals are at 95 % over prompts; a dash is what this judge's verdicts "
    "cannot show. Calls and cost: of the chat endpoints that were asked, over all starts of the stage; a cost that is "
    "not wholly known is a dash."
)


def judge_rows(files: RoundFiles) -> list[tuple[str, ...]]:
    """Return a row for the judge of the pairs and one for the judge of the held-out comparison.

    The columns are `HEADINGS`. A judge that was not measured, as in rounds of earlier versions, has no row.
    """
    return [_row(role, health, files.judge_usage(stage)) for role, (stage, health) in _measured(files).items()]


def part_rows(files: RoundFiles) -> list[tuple[str, ...]]:
    """Return a row for each juror, principle or function of the round's judges; the columns are `PART_HEADINGS`."""
    measured = _measured(files)
    return [
        _part_row(f"{role}: {name}", part)
        for role, (_, health) in measured.items()
        for name, part in health.parts.items()
    ]


def costly_rows(files: RoundFiles) -> list[tuple[str, ...]]:
    """Return a row for the costly judge of the round, if it had one; the columns are `COSTLY_HEADINGS`."""
    active = (files.collected or {}).get("active")  # rounds of earlier versions had none
    numbers = ("candidates", "asked", "agreed", "flipped", "ties", "invalid", "dropped")
    return [] if active is None else [(active["choose_by"], *(count(active[name]) for name in numbers))]


def violation_rows(files: RoundFiles) -> list[tuple[str, ...]]:
    """Return a row for each principle by which a constitution checked the round's responses.

    The columns are `VIOLATION_HEADINGS`.
    """
    collected = (files.collected or {}).get("violations", {})  # rounds of earlier versions had no constitution
    violations = {principle: Violations.model_validate(counts) for principle, counts in collected.items()}
    return [
        (name, count(counts.checked), count(counts.violated), share(counts.rate), count(counts.invalid))
        for name, counts in violations.items()
    ]


def function_rows(files: RoundFiles) -> list[tuple[str, ...]]:
    """Return a row for each of several functions that scored the round's responses.

    The columns are `FUNCTION_HEADINGS`.
    """
    collected = (files.collected or {}).get("functions", {})  # only of a judge of several functions
    functions = {name: FunctionScores.model_validate(counts) for name, counts in collected.items()}
    return [
        (name, decimal(own.mean, 3), count(own.scored), count(own.not_applicable), count(own.failed))
        for name, own in functions.items()
    ]


def _measured(files: RoundFiles) -> dict[str, tuple[str, Health]]:
    """Return the stage in which a judge was measured and the result, by the judge's role."""
    stages: dict[str, tuple[str, Mapping[str, Any] | None]] = {
        "of the pairs": ("collect_preferences", files.collected),
        "of the comparison": ("evaluate", files.evaluated),
    }
    healths = {role: (stage, (counts or {}).get("judge_health")) for role, (stage, counts) in stages.items()}
    return {
        role: (stage, Health.model_validate(health)) for role, (stage, health) in healths.items() if health is not None
    }


def _row(role: str, health: Health, usage: Mapping[str, Any] | None) -> tuple[str, ...]:
    return (
        role,
        share_interval(health.position_consistency),
        share_interval(health.repetition_stability),
        share_interval(health.tie_share),
        share(health.invalid_share),
        share_interval(health.length_preference) + _direction(health.length_preference),
        _characters(health.mean_length_difference),
        NOTHING if usage is None else count(usage["calls"]),
        NOTHING if usage is None or usage["unmeasured"] else decimal(usage["cost"], 2),
    )


def _part_row(name: str, part: PartHealth) -> tuple[str, ...]:
    consistency = (share_interval(part.position_consistency), share_interval(part.repetition_stability))
    return (name, share_interval(part.agreement), share(part.accuracy), *consistency)


def _direction(preference: Interval | None) -> str:
    if preference is None or preference.low <= 0.5 <= preference.high:
        return ""
    return ", prefers longer" if preference.value > 0.5 else ", prefers shorter"


def _characters(difference: float | None) -> str:
    return NOTHING if difference is None else f"{decimal(difference, 1)} char."
