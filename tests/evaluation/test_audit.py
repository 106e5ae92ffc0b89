from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from components.artifacts import read_json
from components.evaluation import audit as audit_module
from components.evaluation import stage
from components.evaluation.audit import judge_audit, sample_audit
from components.judges.protocol import Group, Judge, Verdict
from components.records import Audit, AuditSettings, EvaluateRequest, ModelRef
from tests.evaluation.test_stage_evaluate import ShorterOfTwo

Make = Callable[..., EvaluateRequest]


@pytest.fixture(autouse=True)
def few_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the tests' pool is 15 prompts."""
    monkeypatch.setattr(audit_module, "LEAST_PROMPTS", 15)


def audit(request: EvaluateRequest, judge: Judge) -> Audit | None:
    sampled = sample_audit(request)
    return None if sampled is None else judge_audit(request, sampled, judge)


def audited(make_request: Make, models: dict[str, ModelRef], champion: str, earlier: str) -> EvaluateRequest:
    return make_request("near", champion, audit=AuditSettings(earlier=models[earlier]), audit_share=0.5)


def test_audit_of_a_better_champion_contradicts_nothing(make_request: Make, models: dict[str, ModelRef]) -> None:
    found = audit(audited(make_request, models, "terse", "rambling"), ShorterOfTwo())
    assert found is not None
    assert found.contradictions == ()
    assert found.win_rate_vs_earlier is not None
    assert found.win_rate_vs_earlier.n == found.win_rate_vs_start.n == 15
    assert found.win_rate_vs_earlier.value > 0.5


def test_audit_of_a_worse_champion_says_against_whom(make_request: Make, models: dict[str, ModelRef]) -> None:
    found = audit(audited(make_request, models, "rambling", "terse"), ShorterOfTwo())
    assert found is not None
    assert found.win_rate_vs_earlier is not None
    assert found.win_rate_vs_earlier.high < 0.5
    [text] = [text for text in found.contradictions if "against the champion of round 0" in text]
    assert text.startswith("on 15 held-out prompts that no gate saw, round 0, the champion, wins 0.")


def test_audit_asks_about_the_start_once_if_it_is_the_earlier_champion(
    make_request: Make, models: dict[str, ModelRef]
) -> None:
    class Counting(ShorterOfTwo):
        asked = 0

        def judge(self, groups: Sequence[Group]) -> list[Verdict]:
            self.asked += len(groups)
            return super().judge(groups)

    judge = Counting()
    found = audit(audited(make_request, models, "terse", "start"), judge)
    assert found is not None
    assert (judge.asked, found.win_rate_vs_earlier) == (15, None)


def test_audit_of_too_few_prompts_is_left_out_and_says_so(
    make_request: Make, models: dict[str, ModelRef], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_module, "LEAST_PROMPTS", 16)
    assert audit(audited(make_request, models, "terse", "start"), ShorterOfTwo()) is None
    assert "leaves 15 held-out prompts to audits, which need 16: name more held-out prompts" in caplog.text


def test_audit_that_is_not_due_samples_nothing(
    make_request: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(audit_module, "answer", None)
    assert audit(make_request("near", "terse"), ShorterOfTwo()) is None


def test_evaluation_samples_everything_before_it_loads_the_judge(
    make_request: Make, models: dict[str, ModelRef], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A reward model in memory beside the policies takes more than there is, and other ranks wait while it loads."""
    order: list[str] = []
    sample, load = stage.sample_audit, stage.load_pinned_judge
    monkeypatch.setattr(stage, "sample_audit", lambda request: order.append("sampled") or sample(request))
    monkeypatch.setattr(stage, "load_pinned_judge", lambda *given: order.append("loaded") or load(*given))
    out = tmp_path / "round-001" / "evaluate"
    out.mkdir(parents=True)
    stage.run(audited(make_request, models, "terse", "rambling"), out)
    assert order == ["sampled", "loaded"]
    assert read_json(out / "evaluation.json")["audit"]["win_rate_vs_start"]["n"] == 15
