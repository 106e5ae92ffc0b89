"""The words of a stop that leaves too little."""

import pytest

from components.data.funnel import LeftOut, Step, as_json, counted, step, too_little

MARGIN = LeftOut(count=45, cause="the margin is within preferences.min_margin = 1", remedy="lower it")
KEPT = LeftOut(count=2, cause="kept for evaluation by validation.eval_share = 0.5", remedy="lower that")


def test_stop_names_every_step_its_largest_cause_first_and_the_remedy_of_the_largest_of_all() -> None:
    steps = [step(48, "prompts", [KEPT, MARGIN]), step(3, "pairs", [KEPT])]
    assert too_little("1 of 3 pairs is left", steps, otherwise="sample more") == (
        "1 of 3 pairs is left: 48 prompts (45 x the margin is within preferences.min_margin = 1; 2 x kept for "
        "evaluation by validation.eval_share = 0.5) gave 3 pairs (2 x kept for evaluation by validation.eval_share = "
        "0.5): lower it"
    )


@pytest.mark.parametrize("left_out", [[], counted({"an odd reason": 7}, {})])
def test_stop_without_a_known_remedy_takes_the_other_one(left_out: list[LeftOut]) -> None:
    assert too_little("none", [step(7, "pairs", left_out)], otherwise="sample more").endswith(": sample more")


def test_step_leaves_out_reasons_that_left_out_nothing() -> None:
    assert step(3, "pairs", counted({"a": 0, "b": 1}, {})).text == "3 pairs (1 x b)"


def test_steps_are_read_as_they_were_published() -> None:
    steps = [step(48, "prompts", [MARGIN])]
    assert [Step.model_validate(each) for each in as_json(steps)] == steps
