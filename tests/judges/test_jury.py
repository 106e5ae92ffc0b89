"""The jury: jurors that score and jurors that compare, their abstentions, and the verdicts that are stored."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from components.config import JudgeConfig
from components.judges import rule as rule_module
from components.judges.health import measure_health
from components.judges.jury import Juror, JuryJudge
from components.judges.protocol import (
    BACKWARD,
    FORWARD,
    Group,
    JudgeContext,
    Opinion,
    Verdict,
    conclude_pair,
    make_verdict,
    scores,
)
from components.judges.registry import check_judge, describe_judge, judge_digest, load_judge

UNUSED = JudgeContext(Path("unused"))
GROUPS = [
    Group("p", [{"role": "user", "content": "Hi"}], ((0, "a"), (1, "bbb"), (2, "cc"))),
    Group("q", [{"role": "user", "content": "Bye"}], ((4, "dd"), (7, "d"))),
]


class Scoring:
    def __init__(self, name: str, score: Callable[[str], float | None]) -> None:
        self.name, self._score = name, score

    def judge(self, groups: Sequence[Group]) -> list[Verdict]:
        return [
            make_verdict(self.name, group, number, Opinion(self._score(text)))
            for group in groups
            for number, text in group.responses
        ]


class Comparing:
    """Compare the first and the last response of a group, the last one first."""

    def __init__(self, name: str, p_last: float | None) -> None:
        self.name, self._p = name, p_last

    def judge(self, groups: Sequence[Group]) -> list[Verdict]:
        verdicts = []
        for group in groups:
            last, first = group.responses[-1][0], group.responses[0][0]
            backward = Opinion(None if self._p is None else 1 - self._p)
            verdicts += conclude_pair(self.name, group, last, first, forward=Opinion(self._p), backward=backward)
        return verdicts


def jury(*jurors: Any, votes: str = "majority", weights: Sequence[float] = ()) -> JuryJudge:
    each = weights or [1.0] * len(jurors)
    return JuryJudge(
        [Juror(lambda judge=judge: judge, weight) for judge, weight in zip(jurors, each, strict=True)], votes=votes
    )  # type: ignore[misc]


def conclusions(verdicts: Sequence[Verdict]) -> dict[tuple[str, int, int | None], float | None]:
    return {
        (verdict.prompt_id, verdict.sample_id, verdict.opponent_id): verdict.score
        for verdict in verdicts
        if not verdict.part
    }


LONG, SHORT = Scoring("long", lambda text: float(len(text))), Scoring("short", lambda text: -float(len(text)))


def test_jury_of_judges_that_score_votes_by_the_sign_of_the_difference() -> None:
    same = Scoring("same", lambda text: 0.0)
    verdicts = jury(LONG, LONG, SHORT, same).judge(GROUPS)
    first, second = (2 + 0.5 + 1) / 6, (1 + 0.5 + 1) / 6
    expected = {("p", 0, 1): second, ("p", 0, 2): second, ("p", 1, 2): first, ("q", 4, 7): first}
    assert conclusions(verdicts) == pytest.approx(expected)
    assert scores(verdicts)["p", 1] == pytest.approx(first)


def test_jury_takes_a_comparison_in_either_order_as_the_vote_it_is() -> None:
    probabilities = conclusions(jury(LONG, Comparing("pairs", 0.9), weights=[1, 2]).judge(GROUPS))
    assert probabilities["p", 0, 2] == pytest.approx((0 + 2 * 0.1 + 1) / 5)
    assert probabilities["p", 0, 1] == pytest.approx(1 / 3)
    assert probabilities["q", 4, 7] == pytest.approx((1 + 2 * 0.1 + 1) / 5)


def test_jury_of_judges_that_compare_concludes_on_what_they_looked_at() -> None:
    verdicts = jury(Comparing("one", 0.9), Comparing("two", 0.8)).judge(GROUPS)
    assert conclusions(verdicts).keys() == {("p", 0, 2), ("q", 4, 7)}


def test_juror_without_a_valid_verdict_abstains_and_a_pair_without_votes_is_invalid() -> None:
    picky = Scoring("picky", lambda text: None if text == "a" else float(len(text)))
    probabilities = conclusions(jury(picky, Comparing("pairs", None)).judge(GROUPS))
    assert probabilities == {
        ("p", 0, 1): None,
        ("p", 0, 2): None,
        ("p", 1, 2): pytest.approx(2 / 3),
        ("q", 4, 7): pytest.approx(2 / 3),
    }
    invalid = [
        verdict
        for verdict in jury(picky, Comparing("pairs", None)).judge(GROUPS)
        if not verdict.part and verdict.score is None
    ]
    assert [verdict.detail for verdict in invalid] == [
        "no juror could judge the pair (1 abstained)",
        "no juror could judge the pair (2 abstained)",
    ]


def test_jury_keeps_every_jurors_verdict_under_its_name() -> None:
    verdicts = jury(LONG, LONG, Comparing("pairs", 0.7)).judge(GROUPS)
    parts = {verdict.part for verdict in verdicts}
    assert parts == {"", "long", "long#2", "pairs", f"pairs/{FORWARD}", f"pairs/{BACKWARD}"}
    assert len({verdict.verdict_id for verdict in verdicts}) == len(verdicts) == 5 + 5 + 6 + 4
    assert {verdict.judge for verdict in verdicts if verdict.part == ""} == {"jury:majority"}
    raw = LONG.judge(GROUPS)
    assert [verdict.score for verdict in verdicts if verdict.part == "long#2"] == [verdict.score for verdict in raw]


def test_health_of_a_jury_holds_the_reliability_of_a_juror_who_is_always_wrong() -> None:
    groups = [
        Group(f"p{number}", GROUPS[0].messages, ((0, "a" * (1 + number % 3)), (1, "bb" * (1 + number % 2))))
        for number in range(40)
    ]
    judged = jury(LONG, Scoring("long too", lambda text: 2.0 * len(text)), SHORT, votes="dawid_skene").judge(groups)
    accuracy = {name: part.accuracy for name, part in measure_health(judged, groups, seed=1).parts.items()}
    assert accuracy == {
        "long": pytest.approx(1, abs=0.05),
        "long too": pytest.approx(1, abs=0.05),
        "short": pytest.approx(0, abs=0.05),
    }


@pytest.mark.parametrize("votes", ["majority", "bradley_terry", "dawid_skene"])
def test_jury_says_the_same_in_any_order_of_its_jurors(votes: str) -> None:
    jurors = [LONG, SHORT, Scoring("vowels", lambda text: float("a" in text))]
    forward, backward = (conclusions(jury(*ordered, votes=votes).judge(GROUPS)) for ordered in (jurors, jurors[::-1]))
    assert forward == pytest.approx(backward, abs=1e-9)


def test_jury_judges_two_comparisons_of_one_prompt_apart() -> None:
    against = [
        Group("p", GROUPS[0].messages, ((2, "cc"), (0, "a"))),
        Group("p", GROUPS[0].messages, ((2, "cc"), (1, "bbb"))),
    ]
    assert conclusions(jury(LONG, LONG).judge(against)) == {
        ("p", 2, 0): pytest.approx(3 / 4),
        ("p", 2, 1): pytest.approx(1 / 4),
    }


@pytest.fixture
def rules(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, score in {"long": len, "short": lambda text: -len(text), "broken": lambda text: math.nan}.items():
        monkeypatch.setitem(
            rule_module.RULES,
            name,
            rule_module.Rule(lambda messages, text, score=score: float(score(text)), lambda: "1"),
        )


def config(*rules: str, votes: str = "majority", **weights: float) -> JudgeConfig:
    jurors = tuple({"kind": "rule", "rule": rule, "weight": weights.get(rule, 1.0)} for rule in rules)
    return JudgeConfig.model_validate({"kind": "jury", "votes": votes, "jurors": jurors})


@pytest.mark.usefixtures("rules")
def test_jury_of_configured_jurors_judges_with_their_weights() -> None:
    judged = load_judge(config("long", "short", "broken", long=3.0), UNUSED).judge(GROUPS)
    assert conclusions(judged)["q", 4, 7] == pytest.approx(4 / 6)
    assert {verdict.status for verdict in judged if verdict.part == "rule:broken"} == {"invalid"}


@pytest.mark.usefixtures("rules")
def test_jury_digest_follows_jurors_weights_and_votes() -> None:
    juries = [
        config("long", "short"),
        config("long", "broken"),
        config("long", "short", long=2.0),
        config("long", "short", votes="bradley_terry"),
        config("long", "short", "short"),
    ]
    assert len({judge_digest(config) for config in juries}) == len(juries)
    assert judge_digest(config("long", "short")) == judge_digest(config("long", "short"))


@pytest.mark.usefixtures("rules")
def test_jury_is_checked_juror_by_juror_before_the_campaign() -> None:
    check_judge(config("long", "short"), [GROUPS[0].messages])
    with pytest.raises(ValueError, match=r"judge\.rule nonsense is not a rule"):
        check_judge(config("long", "nonsense"), [])
    assert describe_judge(config("long", "short")) == "jury of rule:long, rule:short"


def test_jury_whose_reliabilities_are_estimated_takes_no_weights() -> None:
    with pytest.raises(ValueError, match="leave `weight` out"):
        config("long", "short", votes="dawid_skene", long=2.0)
