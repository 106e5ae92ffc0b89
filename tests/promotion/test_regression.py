"""The guard on forgetting: passes on evidence, refuses without it, and names the task and its numbers."""

import math
from typing import Any

import pytest

from components.config import RegressionConfig
from components.promotion.regression import findings

SUITE = RegressionConfig(tasks=("arithmetic",), max_loss=0.05)


def task(own: float, other: float, upper: float) -> dict[str, Any]:
    return {
        "num_items": 400,
        "solved": {"challenger": own, "champion": other},
        "loss": {"value": other - own, "upper": upper, "confidence": 0.95, "n": 400},
    }


def results(**tasks: Any) -> dict[str, Any]:
    return {"sources": ["arithmetic"], "tasks": tasks}


def test_guard_without_a_suite_finds_nothing() -> None:
    assert findings(None, RegressionConfig()) == []


def test_guard_passes_a_loss_that_is_surely_within_the_limit() -> None:
    assert findings(results(arithmetic=task(0.9, 0.91, 0.05)), SUITE) == [
        (
            True,
            "regression task arithmetic: the challenger solves 0.900 and the champion 0.910 of 400 items, a loss of "
            "+0.010 and at most +0.050, within 0.05",
        )
    ]


def test_guard_refuses_what_is_only_perhaps_within_the_limit() -> None:
    ((passed, reason),) = findings(results(arithmetic=task(0.9, 0.91, 0.0501)), SUITE)
    assert not passed
    assert reason.endswith("not surely within the limit 0.05")


def test_guard_refuses_a_loss_above_the_limit_and_a_gain_passes() -> None:
    both = results(arithmetic=task(0.5, 0.9, 0.45), copying=task(0.9, 0.5, -0.35))
    (refused, reason), (passed, _) = findings(both, SUITE)
    assert (refused, passed) == (False, True)
    assert reason.endswith("a loss of +0.400 and at most +0.450, above the limit 0.05")


def test_guard_says_when_a_task_is_too_hard_to_show_a_loss() -> None:
    ((passed, reason),) = findings(results(arithmetic=task(0.0, 0.0, 0.0102)), SUITE)
    assert passed
    assert reason.endswith("which says nothing as the champion solves none")


@pytest.mark.parametrize(
    "content", [None, {}, results(), {"tasks": {"arithmetic": {}}}, results(arithmetic={}), results(arithmetic=None)]
)
def test_guard_refuses_results_that_are_missing(content: Any) -> None:
    ((passed, reason),) = findings(content, SUITE)
    assert not passed
    assert reason.endswith("no promotion without it")


@pytest.mark.parametrize("value", [math.nan, math.inf, True, "0.01"])
def test_guard_refuses_a_bound_that_is_not_a_finite_number(value: Any) -> None:
    broken = task(0.9, 0.9, 0.01)
    broken["loss"]["upper"] = value
    assert not findings(results(arithmetic=broken), SUITE)[0][0]


def test_guard_refuses_an_evaluation_without_one_of_the_configured_tasks() -> None:
    both = SUITE.model_copy(update={"tasks": ("arithmetic", "copying")})
    missing, found = findings(results(arithmetic=task(0.9, 0.9, 0.01)), both)
    assert missing == (False, "regression task copying is missing from the evaluation: no promotion without it")
    assert found[0]
