"""People without their names, for MLflow: a round's first person by name is `person 1`, and so on."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from components.judges.protocol import BY, Verdict

SOMEBODY = "a person"


def numbers(people: Mapping[str, Any] | None) -> dict[str, str]:
    """Return what stands for each person's name.

    Args:
        people: Content of the round's `people.json`; None if nobody was asked.
    """
    names = sorted(people["annotators"]) if people is not None else []
    return {name: f"person {number}" for number, name in enumerate(names, 1)}


def nameless_report(people: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of `people.json` with numbers for the names."""
    stands_for = numbers(people)
    annotators = {stands_for[name]: people["annotators"][name] for name in sorted(people["annotators"])}
    return {**people, "annotators": annotators}


def nameless_verdict(verdict: Verdict, stands_for: Mapping[str, str]) -> Verdict:
    """Return a verdict whose part says a person's number in place of the name."""
    within, slash, last = verdict.part.rpartition("/")
    if not last.startswith(BY):
        return verdict
    person = stands_for.get(last.removeprefix(BY), SOMEBODY)
    return replace(verdict, part=f"{within}{slash}{BY}{person}")
