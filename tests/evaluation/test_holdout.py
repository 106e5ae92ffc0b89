from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from components.artifacts import read_json
from components.config import CampaignConfig, JudgeConfig
from components.evaluation import holdout, stage
from components.judges.protocol import Group, Opinion, Verdict, judge_alone
from components.judges.registry import judge_digest
from components.promotion.gate import decide
from components.records import EvaluateRequest, JudgeRef
from tests.evaluation.conftest import NUM_PROMPTS
from tests.evaluation.test_stage_evaluate import GATE, Brevity

Make = Callable[..., EvaluateRequest]
SECOND = JudgeConfig(kind="rule", rule="support_reply", batch_size=7)


class ByLength:
    """Score by length, times a sign, and count what is asked."""

    name = "by length"

    def __init__(self, sign: float) -> None:
        self.sign, self.asked = sign, 0

    def judge(self, groups: Sequence[Group]) -> list[Verdict]:
        self.asked += len(groups)
        return judge_alone(self.name, groups, lambda texts: [Opinion(self.sign * len(text)) for _, text in texts])


@pytest.fixture
def evaluated(make_request: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Evaluate by brevity, with a hold-out judge of the test."""

    def run(challenger: str, champion: str, second: ByLength) -> dict[str, Any]:
        monkeypatch.setattr(stage, "load_pinned_judge", lambda pinned, context: Brevity())
        monkeypatch.setattr(holdout, "load_pinned_judge", lambda pinned, context: second)
        pinned = JudgeRef(config=SECOND, digest=judge_digest(SECOND))
        out = tmp_path / "round-001" / "evaluate"
        out.mkdir(parents=True)
        stage.run(make_request(challenger, champion, holdout_judge=pinned), out)
        return read_json(out / "evaluation.json")

    return run


def test_holdout_judge_that_prefers_the_champion_refuses_a_challenger_that_wins(
    evaluated: Callable[..., dict[str, Any]],
) -> None:
    second = ByLength(+1.0)
    found = evaluated("terse", "rambling", second)
    assert found["evidence"]["shown"]
    assert found["holdout_judge"]["win_rate"] < 0.2
    assert found["holdout_judge"]["loss"]["n"] == second.asked == NUM_PROMPTS
    decision = decide(found, GATE)
    assert not decision.promoted
    assert decision.reasons[0].startswith(
        f"win rate {found['holdout_judge']['win_rate']:.3f} against the champion by the"
    )
    assert decide(found, GATE.model_copy(update={"max_holdout_loss": 1.0})).promoted


def test_holdout_judge_that_agrees_lets_a_challenger_pass(evaluated: Callable[..., dict[str, Any]]) -> None:
    found = evaluated("terse", "rambling", ByLength(-1.0))
    assert found["holdout_judge"]["loss"]["upper"] < 0
    assert decide(found, GATE).promoted


def test_holdout_judge_is_not_asked_about_a_challenger_that_is_refused_anyway(
    evaluated: Callable[..., dict[str, Any]],
) -> None:
    second = ByLength(+1.0)
    found = evaluated("rambling", "terse", second)
    assert (second.asked, found["holdout_judge"]) == (0, None)
    assert not any("hold-out" in reason for reason in decide(found, GATE).reasons)
    unasked = found | {"evidence": found["evidence"] | {"shown": True}}
    assert "verdict of the hold-out judge is missing" in decide(unasked, GATE).reasons[0]


@pytest.mark.parametrize(
    ("holdout_judge", "message"),
    [
        ({"kind": "self"}, "must not be the policy itself"),
        ({"kind": "rule"}, "also a judge of pairs or of the evaluation"),
    ],
)
def test_holdout_judge_must_be_another_judge(holdout_judge: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CampaignConfig.model_validate({"campaign": "c", "judge": {"kind": "rule"}, "holdout_judge": holdout_judge})
