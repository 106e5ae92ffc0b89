"""A judge against known labels: numbers worked by hand."""

import math

import numpy as np
import pytest

from components.config import JudgeConfig
from components.data.preference_file import SeedPair
from components.judges.protocol import Group, Opinion, Verdict, make_verdict
from components.preferences.standalone.calibration import (
    KnownPair,
    Question,
    fit_scale,
    known,
    log_loss,
    predictions,
    questions,
)
from components.statistics.calibration import quality

ASK = [{"role": "user", "content": "?"}]


def pairs(*margins: float, label: float = 1.0, verdict_p: float | None = None) -> list[KnownPair]:
    return [KnownPair(f"prompt {number}", "t", label, margin, verdict_p) for number, margin in enumerate(margins)]


def test_fit_scale_is_where_the_share_of_right_labels_is_the_probability() -> None:
    # Three right of four at one margin of 2: sigmoid(2 / s) = 3 / 4, so s = 2 / ln 3.
    assert fit_scale(pairs(2, 2, 2, -2)) == pytest.approx(2 / math.log(3))
    # The same shares said by soft labels.
    assert fit_scale(pairs(2, 2, label=0.75)) == pytest.approx(2 / math.log(3))
    assert fit_scale(pairs(2e-9, 2e-9, 2e-9, -2e-9)) == pytest.approx(2e-9 / math.log(3))


def test_fit_scale_recovers_the_noise_that_made_the_labels() -> None:
    chance = np.random.default_rng(3)
    margins = chance.normal(0, 4, 20_000)
    right = chance.random(20_000) < 1 / (1 + np.exp(-np.abs(margins) / 1.5))
    assert fit_scale(pairs(*np.where(right, np.abs(margins), -np.abs(margins)))) == pytest.approx(1.5, rel=0.05)


@pytest.mark.parametrize("margins", [(), (0.0, 0.0), (1.0, 2.0), (1.0, 0.0), (-1.0, -2.0), (1.0, -1.0), (1.0, -2.0)])
def test_fit_scale_where_no_scale_is_best_is_none(margins: tuple[float, ...]) -> None:
    assert fit_scale(pairs(*margins)) is None


def test_predictions_are_the_judges_log_odds_of_the_known_better_answer() -> None:
    found = predictions([*pairs(3.0, label=0.75), *pairs(0.8, verdict_p=0.9)], scale=2.0)
    assert found[0] == ("prompt 0", 1.5, 0.75, "t")
    assert found[1].margin == pytest.approx(math.log(9))
    right, wrong = predictions([*pairs(1.0, verdict_p=1.0), *pairs(-1.0, verdict_p=0.0)], scale=1.0)
    measured = quality([right, wrong], confidence=0.95, resamples=100, seed=1)
    assert (measured.reliability[0].predicted, measured.reliability[0].observed, measured.accuracy.value) == (
        1.0,
        0.5,
        0.5,
    )


def test_log_loss_is_the_labels_cross_entropy() -> None:
    assert log_loss(pairs(1.0, verdict_p=0.8), scale=1.0) == pytest.approx(-math.log(0.8))
    assert log_loss(pairs(1.0, verdict_p=0.8, label=0.75), scale=1.0) == pytest.approx(
        -0.75 * math.log(0.8) - 0.25 * math.log(0.2)
    )
    assert log_loss(pairs(0.0), scale=1.0) == pytest.approx(math.log(2))
    assert log_loss(pairs(-1.0, verdict_p=0.0), scale=1.0) == pytest.approx(math.log(1e6))


def seed_pair(chosen: str | None, rejected: str | None, **given: float | str) -> SeedPair:
    values = {"p": None, "margin": None, "tag": None} | given
    return SeedPair(ASK, chosen, rejected, **values)  # type: ignore[arg-type]


def test_questions_are_the_pairs_with_a_label_each_once() -> None:
    rows = [
        seed_pair("good", "bad"),
        seed_pair("good", "bad"),
        seed_pair("poor", "fine", p=0.2, tag="style"),
        seed_pair("same", " same"),
        seed_pair("a", "b", p=0.5),
        seed_pair("a", "c", margin=0.0),
        seed_pair("a", None),
    ]
    asked = questions(rows, default_tag="helpfulness")
    labels = [(dict(question.group.responses)[question.better], question.label, question.tag) for question in asked]
    assert labels == [("good", 1.0, "helpfulness"), ("fine", 0.8, "style")]


@pytest.mark.parametrize("p", [7.0, -0.2, 1.01, math.inf])
def test_question_whose_p_is_no_probability_is_refused_by_its_row(p: float) -> None:
    odd = SeedPair(ASK, "good", "bad", p, None, None, place="pairs.jsonl line 7")
    with pytest.raises(ValueError, match=r"pairs.jsonl line 7: p is .*, but must be a probability in \[0, 1\]"):
        questions([seed_pair("fine", "poor"), odd], default_tag="t")


def test_questions_show_the_better_answer_first_as_often_as_second() -> None:
    asked = questions([seed_pair(f"good {number}", f"bad {number}") for number in range(400)], default_tag="t")
    assert 160 < sum(question.better for question in asked) < 240


def test_known_reads_scores_and_comparisons_in_either_direction_and_leaves_out_what_was_not_judged() -> None:
    def group(name: str) -> Group:
        return Group(name, ASK, ((0, "x"), (1, "y")))

    def compared(name: str, first: int, score: float) -> Verdict:
        return make_verdict("j", group(name), first, Opinion(score), opponent_id=1 - first)

    alone = [make_verdict("j", group("alone"), number, Opinion(score)) for number, score in ((0, 1.0), (1, 4.0))]
    invalid = [
        make_verdict("j", group("invalid"), 0, Opinion(1.0)),
        make_verdict("j", group("invalid"), 1, Opinion(None, "?")),
    ]
    verdicts = [*alone, *invalid, compared("forward", 1, 0.9), compared("backward", 0, 0.1)]
    asked = [Question(group(name), 1, 1.0, "t") for name in ("alone", "invalid", "forward", "backward")]
    found = [(pair.margin, pair.verdict_p) for pair in known(asked, verdicts)]
    assert found == [(3.0, None), (pytest.approx(0.8), 0.9), (pytest.approx(0.8), 0.9)]


def test_judge_reads_own_models_where_a_juror_does() -> None:
    jury = JudgeConfig.model_validate({"kind": "jury", "jurors": [{"kind": "rule"}, {"kind": "implicit_reward"}]})
    assert jury.reads_own_models
    assert not JudgeConfig().reads_own_models
