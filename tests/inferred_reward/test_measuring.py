"""How often a judge puts a demonstration above other answers, by hand."""

from typing import Any

import pytest

from components.config import EvaluationConfig
from components.inferred_reward.measuring import Shown, accuracy, as_json, gain, outcomes, with_answers
from components.judges.protocol import Group, Opinion, Verdict, make_verdict

SETTINGS = EvaluationConfig()
ASK = [{"role": "user", "content": "?"}]


def shown(name: str, *answers: str, demonstrations: int = 1) -> Shown:
    return Shown(Group(name, ASK, tuple(enumerate(answers))), demonstrations)


def verdicts(each: Shown, *scores: float | None) -> list[Verdict]:
    return [make_verdict("judge", each.group, number, Opinion(score)) for number, score in enumerate(scores)]


def test_outcomes_share_wins_and_ties_of_each_demonstration() -> None:
    one, two = shown("a", "d", "x", "y", "z"), shown("b", "d", "e", "x", demonstrations=2)
    measured = outcomes([one, two], [*verdicts(one, 1.0, 0.0, 1.0, 2.0), *verdicts(two, 3.0, 1.0, 2.0)])
    assert measured.rates == {"a": 0.5, "b": 0.5}
    assert measured.invalid == 0


def test_outcomes_without_a_score_are_counted_and_are_no_loss() -> None:
    one, two = shown("a", "d", "x", "y"), shown("b", "d", "x")
    measured = outcomes([one, two], [*verdicts(one, 1.0, None, 0.0), *verdicts(two, None, 0.0)])
    assert measured.rates == {"a": 1.0}
    assert measured.invalid == 2


def test_accuracy_of_a_few_prompts_is_not_sure_and_of_many_is() -> None:
    def right(number: int) -> Any:
        some = [shown(str(place), "d", "x") for place in range(number)]
        return outcomes(some, [verdict for each in some for verdict in verdicts(each, 1.0, 0.0)])

    few, many = (as_json(right(number), accuracy(right(number), SETTINGS, seed=1)) for number in (5, 6))
    assert few["accuracy"]["value"] == many["accuracy"]["value"] == 1.0
    assert (few["above_random"], many["above_random"]) == (False, True)
    nothing = outcomes([], [])
    assert accuracy(nothing, SETTINGS, seed=1) is None
    assert as_json(nothing, None) == {"accuracy": None, "above_random": False, "not_scored": 0}


def test_gain_is_over_the_prompts_that_both_scored() -> None:
    some = [shown(str(place), "d", "x") for place in range(12)]
    own = outcomes(some, [verdict for each in some for verdict in verdicts(each, 1.0, 0.0)])
    other = outcomes(some[:10], [verdict for each in some[:10] for verdict in verdicts(each, 0.0, 1.0)])
    by = gain(own, other, SETTINGS, seed=1)
    assert by is not None
    assert (by.value, by.n) == (1.0, 10)
    assert by.low > 0
    assert gain(own, outcomes([], []), SETTINGS, seed=1) is None


def test_with_answers_leaves_out_own_answers_that_are_the_demonstration() -> None:
    groups = {name: Group(name, ASK, ()) for name in ("a", "b")}
    found, equal = with_answers(groups, {"a": ["d"], "b": ["d"]}, {"a": ["d ", "x"], "b": ["d", "d\n"]})
    assert [each.group.responses for each in found] == [((0, "d"), (1, "x"))]
    assert equal == 3


@pytest.mark.parametrize("number", [1, 2])
def test_with_answers_puts_the_demonstrations_first(number: int) -> None:
    said = ["d", "e"][:number]
    (each,), _ = with_answers({"a": Group("a", ASK, ())}, {"a": said}, {"a": ["x"]})
    assert [text for _, text in each.group.responses] == [*said, "x"]
    assert each.num_demonstrations == number
