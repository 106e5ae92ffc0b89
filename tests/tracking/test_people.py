"""What MLflow gets of a round's people: numbers, and nobody's name."""

from types import SimpleNamespace
from typing import Any

from components.records import Interval, PeopleSummary
from components.tracking.measurements import _agreements, _people

AGREEMENT = {"value": 0.75, "low": 0.5, "high": 0.9, "n": 20}


def facts(people: Any) -> Any:
    return SimpleNamespace(files=SimpleNamespace(people=people))


def test_people_are_numbers_without_names() -> None:
    people = {
        "asked": 12,
        "labelled": 11,
        "both_bad": 1,
        "flagged": 2,
        "krippendorff_alpha": None,
        "annotators": {"anna": {"votes": 11}, "ben": {"votes": 3}},
        "agreement": AGREEMENT,
        "judges": {
            "llm:a/b c": {"agreement": AGREEMENT, "cohen_kappa": 0.5, "pairs": 11},
            "x": {"agreement": None} | {"cohen_kappa": None},
        },
    }
    points = dict(_people(facts(people)))
    assert points["people/annotators"] == 2
    assert points["people/llm:a_b_c/agreement/low"] == 0.5
    assert points["people/llm:a_b_c/cohen_kappa"] == 0.5
    assert points["people/krippendorff_alpha"] is None, "absence is no number"
    assert "people/x/agreement/low" not in points
    assert not [name for name in points if "anna" in name or "ben" in name]


def test_agreement_is_a_curve_of_the_campaign() -> None:
    interval = Interval.model_validate(AGREEMENT)
    people = PeopleSummary(labelled=3, annotators=2, agreement=None, judges={"llm:m": interval})
    record: Any = SimpleNamespace(people=people)
    assert _agreements(record) == {"people/agreement": None, "people/llm:m/agreement": 0.75}


def test_round_without_people_has_no_metric_of_them() -> None:
    assert not dict(_people(facts(None)))
    nobody: Any = SimpleNamespace(people=None)
    assert _agreements(nobody) == {}
