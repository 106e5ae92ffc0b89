"""The guard on forgetting: whether the challenger surely solves about as much as the champion on every task.

A pure function of the evaluation's numbers.
"""

import math
from collections.abc import Mapping
from typing import Any

from components.config import RegressionConfig

MISSING = "no promotion without it"


def findings(regression: Mapping[str, Any] | None, config: RegressionConfig) -> list[tuple[bool, str]]:
    """Return for each task whether it passes, and why.

    A task passes if the upper end of the loss, of paired outcomes on the same items, is at most `max_loss`: the
    challenger must show that it has not lost more, and few items show little. Every task must pass, so the chance to
    promote a challenger that has lost more than the margin on some task is at most 1 - `confidence`, however many tasks
    there are (an intersection-union test, Berger 1982, Technometrics 24).

    Args:
        regression: What `components/regression/run.py` found, as evaluation.json holds it under `regression`.
        config: The suite and its margin.

    Returns:
        Nothing if no suite is configured.
    """
    if not config.tasks:
        return []
    content = regression if isinstance(regression, Mapping) else {}
    tasks, sources = content.get("tasks"), content.get("sources")
    if not isinstance(tasks, Mapping) or not tasks or not isinstance(sources, list):
        return [(False, f"the regression suite is missing from the evaluation (regression): {MISSING}")]
    left_out = [task for task in config.tasks if task not in sources]
    return [
        *((False, f"regression task {task} is missing from the evaluation: {MISSING}") for task in left_out),
        *(_finding(name, tasks[name], config) for name in tasks),
    ]


def _finding(name: str, task: Any, config: RegressionConfig) -> tuple[bool, str]:
    value, upper = (_number(task, "loss", part) for part in ("value", "upper"))
    own, other = (_number(task, "solved", model) for model in ("challenger", "champion"))
    number = _number(task, "num_items")
    if value is None or upper is None or own is None or other is None or number is None:
        return False, f"regression task {name} is missing from the evaluation or not finite: {MISSING}"
    text = (
        f"regression task {name}: the challenger solves {own:.3f} and the champion {other:.3f} of {number:.0f} items, "
        f"a loss of {value:+.3f} and at most {upper:+.3f}"
    )
    if upper <= config.max_loss:
        blind = ", which says nothing as the champion solves none" if other == 0 else ""
        return True, f"{text}, within {config.max_loss:g}{blind}"
    if value > config.max_loss:
        return False, f"{text}, above the limit {config.max_loss:g}"
    return False, f"{text}, not surely within the limit {config.max_loss:g}"


def _number(value: Any, *path: str) -> float | None:
    """Return the finite number at a path of keys; None if there is none."""
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None
