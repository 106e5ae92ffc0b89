"""How far responses break the rule of `constraints.function`. Knows neither training nor evaluation."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from components.config import ConstraintsConfig, FunctionConfig
from components.functions.checking import check_functions
from components.functions.scoring import Sample, score
from components.functions.worker import GROUP


class Violation(NamedTuple):
    """How far a response breaks the rule."""

    value: float | None
    """In [0, 1], 0 if the rule is kept or does not apply; None if the function failed."""
    error: str = ""
    """Why there is no value."""


def check_constraint(constraints: ConstraintsConfig, columns: Collection[str], *, rows: str) -> None:
    """Check that the function can be loaded and called on single responses.

    Args:
        constraints: Its `function`; empty passes.
        columns: Names of the other columns of the rows.
        rows: The rows, for messages.

    Raises:
        ValueError: It cannot; one line with the remedy.
    """
    if not constraints.function:
        return
    (description,) = check_functions(_functions(constraints), constraints, columns, rows=rows)
    if description.form == GROUP:
        raise ValueError(
            f"constraints.function {constraints.function} takes all responses to a prompt, but a rule is about one: "
            "write a function of `response` or of `completions`"
        )


def violations(samples: Sequence[Sample], constraints: ConstraintsConfig, *, scratch: Path) -> list[Violation]:
    """Return how far each response breaks the rule; arguments and errors as for `scoring.score`."""
    (scores,) = score(samples, _functions(constraints), constraints, scratch=scratch)
    return [Violation(None, each.error) if each.error else _violation(each.value) for each in scores]


def _violation(value: float | None) -> Violation:
    if value is None:
        return Violation(0.0)
    if not 0 <= value <= 1:
        return Violation(None, f"it returned {value:g}, but a violation is in [0, 1]")
    return Violation(value)


def _functions(constraints: ConstraintsConfig) -> tuple[FunctionConfig]:
    return (FunctionConfig(function=constraints.function),)
