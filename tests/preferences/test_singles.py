"""Single responses: which are desirable, which are left out, and that counts add up."""

import math

import pytest

from components.config import PreferencesConfig
from components.judges.protocol import Group, Opinion, SampledTokens, make_verdict
from components.preferences.judged_pairs import BuiltPairs, build_singles

ASK = [{"role": "user", "content": "?"}]
Said = dict[str, float | None]


def built(*prompts: Said, **knobs: object) -> BuiltPairs:
    """Build singles from prompts with scored responses."""
    groups = [Group(f"p{number}", [*ASK], tuple(enumerate(said))) for number, said in enumerate(prompts)]
    verdicts = [
        make_verdict("judge", group, sample_id, Opinion(said[text], "mumbled"))
        for group, said in zip(groups, prompts, strict=True)
        for sample_id, text in group.responses
    ]
    preferences = PreferencesConfig.model_validate({"pairs": "unpaired"} | knobs)
    return build_singles(groups, verdicts, judge="judge", preferences=preferences, seed=0)


def rows(found: BuiltPairs) -> list[tuple[str | None, str | None, float, float]]:
    return [(row["chosen"], row["rejected"], row["p"], row["margin"]) for row in found.rows]


def test_singles_above_the_rounds_median_are_desirable_and_those_at_it_are_left_out() -> None:
    found = built({"a": 4.0, "b": 3.0}, {"c": 2.0, "d": 0.0, "e": None}, {"f": 2.0}, {"g": None})
    assert rows(found) == [("a", None, 1.0, 2.0), ("b", None, 1.0, 1.0), (None, "d", 1.0, 2.0)]
    assert found.outcomes == {"p0": "paired", "p1": "paired", "p2": "ties", "p3": "no_verdict"}
    assert all(len(row["verdict_ids"]) == 1 for row in found.rows)


@pytest.mark.parametrize(
    ("knobs", "desirable"),
    [
        ({"threshold": "mean"}, "a"),
        ({"threshold": "value", "threshold_value": 1.5}, "abc"),
        ({"threshold": "median"}, "ab"),
    ],
)
def test_singles_threshold_is_the_configured_one(knobs: dict[str, object], desirable: str) -> None:
    # Mean 4.75, median 2.5.
    found = built({"a": 13.0, "b": 3.0, "c": 2.0, "d": 1.0}, **knobs)
    assert "".join(row["chosen"] or "" for row in found.rows) == desirable


def test_singles_near_the_threshold_are_left_out_by_the_margin() -> None:
    found = built({"a": 5.0, "b": 2.4}, {"c": 1.6, "d": 2.2}, threshold="value", threshold_value=2.0, min_margin=0.5)
    assert rows(found) == [("a", None, 1.0, 3.0)]
    assert found.outcomes == {"p0": "paired", "p1": "below_margin"}


def test_singles_label_grows_with_the_distance_from_the_threshold() -> None:
    found = built(
        {"a": 3.0, "b": -1.0}, threshold="value", threshold_value=0.0, soft_labels="bradley_terry", soft_label_scale=2.0
    )
    assert [row["p"] for row in found.rows] == pytest.approx([1 / (1 + math.exp(-1.5)), 1 / (1 + math.exp(-0.5))])
    assert [row["rejected"] for row in found.rows] == [None, "b"]


def test_singles_equal_texts_are_one_response() -> None:
    assert rows(built({"a": 1.0, " a ": 1.0, "b": 0.0}, threshold="value", threshold_value=0.5)) == [
        ("a", None, 1.0, 0.5),
        (None, "b", 1.0, 0.5),
    ]


def test_singles_without_any_score_are_none() -> None:
    assert built({"a": None, "b": None}) == BuiltPairs([], {"p0": "no_verdict"})


def test_cut_single_is_never_desirable() -> None:
    scores = {"a": 4.0, "b": 3.0, "c": 1.0, "d": 0.0}
    tokens = {number: SampledTokens((7,), "length" if number in (0, 3) else "stop", None) for number in range(4)}
    of = Group("p", [*ASK], tuple(enumerate(scores)), tokens=tokens)
    alone = Group("q", [*ASK], ((0, "a"),), tokens=tokens)
    verdicts = [
        make_verdict("judge", each, number, Opinion(scores[text]))
        for each in (of, alone)
        for number, text in each.responses
    ]
    knobs = {"pairs": "unpaired", "cut_responses": "rejected", "threshold": "value", "threshold_value": 2.0}
    preferences = PreferencesConfig.model_validate(knobs)
    found = build_singles([of, alone], verdicts, judge="judge", preferences=preferences, seed=0)
    assert rows(found) == [("b", None, 1.0, 1.0), (None, "c", 1.0, 1.0), (None, "d", 1.0, 2.0)]
    assert found.outcomes == {"p": "paired", "q": "chosen_cut"}
