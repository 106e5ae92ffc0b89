"""Each kind of check on answers that solve an item and on answers that nearly do."""

from typing import Any

import pytest

from components.regression.checks import KINDS, read_check

CASES: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({"kind": "exact", "answer": "Oslo"}, ["oslo.", "  Oslo ", r"It is \boxed{Oslo}"], ["", "Oslo, in Norway", "Rome"]),
    ({"kind": "exact", "answer": ["yes", "y"]}, ["Yes", "y"], ["no"]),
    ({"kind": "exact", "answer": 12, "marked": True}, ["So\n#### 12"], ["12"]),
    ({"kind": "number", "answer": 1204}, ["It is 1,204.", "800 + 404 = 1204"], ["", "none", "1204 is not 1205"]),
    ({"kind": "number", "answer": 3.14, "tolerance": 0.01}, ["3.145", "about 3.13"], ["3.2"]),
    ({"kind": "regex", "pattern": "a,b"}, ["a,b", " a,b\n"], ["a, b", "xa,b", ""]),
    ({"kind": "regex", "pattern": "b", "whole": False, "flags": "i"}, ["aBc"], ["ac"]),
    (
        {"kind": "json_schema", "schema": {"type": "object", "required": ["a"]}},
        ['{"a": 1}', '```json\n{"a": 1}\n```'],
        ['{"b": 1}', 'Here it is: {"a": 1}', ""],
    ),
    ({"kind": "contains", "all": ["red", "blue"]}, ["blue and red"], ["red", "Red and blue", ""]),
    ({"kind": "contains", "none": ["secret"], "ignore_case": True}, ["I cannot say"], ["The Secret", "", " "]),
]


@pytest.mark.parametrize(("check", "solved", "failed"), CASES)
def test_check_tells_right_answers_from_near_ones(check: dict[str, Any], solved: list[str], failed: list[str]) -> None:
    outcome = read_check(check).outcome
    assert [answer for answer in solved if outcome(answer) != 1] == []
    assert [answer for answer in failed if outcome(answer) != 0] == []


def test_checks_of_every_kind_are_tried() -> None:
    assert {check["kind"] for check, _, _ in CASES} == set(KINDS)
