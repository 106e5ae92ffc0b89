from collections.abc import Callable, Sequence

import pytest

from components.data.messages import Messages
from components.evaluation.outcomes import compare, principle_violations
from components.judges.protocol import Group, Opinion, Verdict, as_part, conclude_pair, judge_alone, make_verdict
from components.judges.violations import KEPT
from components.records import JudgeUnavailable

PROMPTS: list[tuple[str, Messages]] = [
    (f"p{number}", [{"role": "user", "content": f"question {number}"}]) for number in range(40)
]


class Alone:
    """Score each response by a function of its text; None stands for an unreadable answer."""

    name = "alone"

    def __init__(self, score: Callable[[str], float | None]) -> None:
        self.score = score

    def judge(self, groups: Sequence[Group]) -> list[Verdict]:
        return judge_alone(
            self.name, groups, lambda texts: [Opinion(self.score(text), "unreadable") for _, text in texts]
        )


class Pairwise:
    """Compare in both orders; `share(first, second)` is the first one's share of the win."""

    name = "pairwise"

    def __init__(self, share: Callable[[str, str], float | None]) -> None:
        self.share = share

    def judge(self, groups: Sequence[Group]) -> list[Verdict]:
        verdicts = []
        for group in groups:
            (one, text), (other, opposed) = group.responses
            orders = {
                "forward": Opinion(self.share(text, opposed), "mumbled"),
                "backward": Opinion(self.share(opposed, text), "mumbled"),
            }
            verdicts += conclude_pair(self.name, group, one, other, **orders)
        return verdicts


def texts(challenger: str, champion: str, start: str = "x") -> dict[str, list[str]]:
    return {"start": [start] * 40, "champion": [champion] * 40, "challenger": [challenger] * 40}


def longer(first: str, second: str) -> float:
    return 0.9 if len(first) > len(second) else 0.1 if len(first) < len(second) else 0.5


@pytest.mark.parametrize("judge", [Alone(lambda text: float(len(text))), Pairwise(longer)])
@pytest.mark.parametrize(
    ("challenger", "champion", "outcome"), [("long", "s", 1.0), ("s", "long", 0.0), ("same", "four", 0.5)]
)
def test_compare_gives_the_better_response_the_win(
    judge: Alone | Pairwise, challenger: str, champion: str, outcome: float
) -> None:
    found = compare(judge, PROMPTS, texts(challenger, champion, start=""))
    assert found.outcomes == {"champion": [outcome] * 40, "start": [1.0] * 40}
    assert found.invalid_share == 0


def test_compare_by_a_judge_that_scores_gives_rewards() -> None:
    found = compare(Alone(lambda text: float(len(text))), PROMPTS, texts("long", "s", ""))
    assert found.rewards == {"start": [0.0] * 40, "champion": [1.0] * 40, "challenger": [4.0] * 40}


def test_compare_by_a_judge_that_compares_gives_no_rewards() -> None:
    assert compare(Pairwise(longer), PROMPTS, texts("long", "s")).rewards is None


def test_compare_cancels_a_preference_for_the_first_place() -> None:
    found = compare(Pairwise(lambda first, second: 1.0), PROMPTS, texts("a", "b"))
    assert found.outcomes["champion"] == [0.5] * 40


def test_compare_where_only_one_order_is_decided_is_a_tie() -> None:
    """The judge prefers the challenger's text if it comes first, and is undecided if it comes second."""
    found = compare(Pairwise(lambda first, second: 1.0 if first == "good" else 0.5), PROMPTS, texts("good", "bad"))
    assert found.outcomes["champion"] == [0.5] * 40


def test_compare_leaves_out_a_comparison_that_was_judged_in_one_order_only() -> None:
    replies = texts("long", "s")
    replies["challenger"][7] = "odd"

    def share(first: str, second: str) -> float | None:
        return None if first == "odd" else longer(first, second)

    found = compare(Pairwise(share), PROMPTS, replies)
    assert [row for row, outcome in enumerate(found.outcomes["champion"]) if outcome is None] == [7]
    assert found.invalid_share == pytest.approx(2 / 80)


def test_compare_leaves_out_a_response_without_a_score() -> None:
    replies = texts("long", "s")
    replies["start"][3] = "odd"
    found = compare(Alone(lambda text: None if text == "odd" else float(len(text))), PROMPTS, replies)
    assert found.outcomes["start"][3] is None
    assert found.outcomes["champion"] == [1.0] * 40
    assert found.rewards is not None
    assert found.rewards["start"][3] is None
    assert found.invalid_share == pytest.approx(1 / 160)


def test_compare_with_too_many_invalid_verdicts_is_refused_with_their_cause() -> None:
    replies = texts("long", "s")
    replies["challenger"][:5] = ["odd"] * 5
    judge = Alone(lambda text: None if text == "odd" else float(len(text)))
    with pytest.raises(
        JudgeUnavailable, match=r"judge alone: 10 of 80 comparisons .* more than 5%; 10 of 160 .*, 10 times: unreadable"
    ):
        compare(judge, PROMPTS, replies)


def test_compare_by_a_judge_that_concludes_nothing_is_refused() -> None:
    class Silent(Pairwise):
        def judge(self, groups: Sequence[Group]) -> list[Verdict]:
            return [verdict for verdict in super().judge(groups) if verdict.part]

    with pytest.raises(JudgeUnavailable, match="80 of 80 comparisons have no verdict"):
        compare(Silent(longer), PROMPTS, texts("long", "s"))


def test_principle_violations_are_shares_of_each_models_responses() -> None:
    """The challenger is in the groups of both opponents, so it is checked twice."""

    def checked(group: Group, number: int, score: float | None) -> Verdict:
        verdict = make_verdict("judge", group, number, Opinion(score), part=KEPT)
        return as_part(as_part(verdict, "principle: kind"), "a juror")

    both = [Group(name, [], ((2, "challenger"), (opponent, "opponent"))) for name in ("p", "q") for opponent in (0, 1)]
    keeps: dict[tuple[str, int], float | None] = {
        ("p", 2): 0.0,
        ("q", 2): 1.0,
        ("p", 1): 1.0,
        ("q", 1): None,
        ("p", 0): None,
        ("q", 0): None,
    }
    verdicts = [
        checked(group, number, keeps[group.prompt_id, number]) for group in both for number, _ in group.responses
    ]
    found = principle_violations(verdicts, models=["start", "champion", "challenger"])
    assert found == {"principle: kind": {"start": None, "champion": 0.0, "challenger": 0.5}}
    assert principle_violations(Pairwise(longer).judge(both), models=["champion"]) == {}


def test_compare_shows_the_judge_each_prompts_own_columns() -> None:
    seen: dict[str, set[str]] = {}

    class Reads(Alone):
        def judge(self, groups: Sequence[Group]) -> list[Verdict]:
            for group in groups:
                seen.setdefault(group.prompt_id, set()).add(group.columns["answer"])
            return super().judge(groups)

    columns = [{"answer": f"of {prompt_id}"} for prompt_id, _ in PROMPTS]
    compare(Reads(lambda text: float(len(text))), PROMPTS, texts("long", "s"), columns=columns)
    assert seen == {prompt_id: {f"of {prompt_id}"} for prompt_id, _ in PROMPTS}
