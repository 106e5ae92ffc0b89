"""What MLflow gets of users' thumbs: numbers."""

from types import SimpleNamespace
from typing import Any

from components.tracking.measurements import _feedback


def facts(feedback: Any) -> Any:
    return SimpleNamespace(files=SimpleNamespace(feedback=feedback))


def test_thumbs_are_numbers_by_what_became_of_them() -> None:
    feedback = {
        "taken": 4,
        "up": 2,
        "down": 1,
        "correction": 1,
        "offered": {"up": 5, "down": 2, "correction": 1},
        "quarantined": 1,
        "quarantine_reasons": {"secrets: password": 1},
        "left_out": {"deleted": 1, "unserved": 1},
        "waiting": 1,
        "shortage": None,
    }
    assert dict(_feedback(facts(feedback))) == {
        "feedback/taken": 4,
        "feedback/up": 2,
        "feedback/down": 1,
        "feedback/correction": 1,
        "feedback/quarantined": 1,
        "feedback/waiting": 1,
        "feedback/left_out": 2,
        "feedback/offered": 8,
    }


def test_round_without_thumbs_has_no_metric_of_them() -> None:
    assert not dict(_feedback(facts(None)))
