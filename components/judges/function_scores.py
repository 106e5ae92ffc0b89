"""What each of several functions of the user said of the responses, from the Python judge's verdicts. Pure."""

import math
from collections import defaultdict
from collections.abc import Iterable

from components.judges.protocol import Verdict
from components.records import Record

FUNCTION = "function: "
"""Prefix of a function's name in the parts of verdicts."""
NOT_APPLICABLE = "the function does not apply (it returned None)"


class FunctionScores(Record):
    """A function's scores of the responses, each counted once per verdict."""

    mean: float | None
    """Mean of its scores, without its weight; None if there is none."""
    scored: int
    """Responses with a score."""
    not_applicable: int
    """Responses for which it returned None."""
    failed: int
    """Responses for which it failed."""


def function_scores(verdicts: Iterable[Verdict]) -> dict[str, FunctionScores]:
    """Return the scores of each function, in the order of the verdicts; empty unless several functions judged."""
    of_function: defaultdict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        part = verdict.part.rpartition("/")[2]
        if part.startswith(FUNCTION):
            of_function[part.removeprefix(FUNCTION)].append(verdict)
    return {name: _counted(own) for name, own in of_function.items()}


def _counted(verdicts: list[Verdict]) -> FunctionScores:
    values = [verdict.score for verdict in verdicts if verdict.score is not None]
    not_applicable = sum(verdict.score is None and verdict.detail == NOT_APPLICABLE for verdict in verdicts)
    return FunctionScores(
        mean=math.fsum(values) / len(values) if values else None,
        scored=len(values),
        not_applicable=not_applicable,
        failed=len(verdicts) - len(values) - not_applicable,
    )
