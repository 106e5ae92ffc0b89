"""Which judges a dry run lets judge, which it counts the questions of, and which it leaves alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.builtin.world import corpus
from components.config import CampaignConfig
from components.dry_run import judging
from components.dry_run.judging import judge_collection, judge_groups
from components.judges.protocol import Group, JudgeContext
from tests.judges.chat_server import ChatServer

Start = Callable[..., ChatServer]
REPLIES = corpus()
GROUPS = [Group(f"p{n}", REPLIES[n][0], tuple((k, f"{REPLIES[n][1]} {k}") for k in range(3))) for n in range(0, 8, 2)]


def config(**values: Any) -> CampaignConfig:
    return CampaignConfig.model_validate({"campaign": "small", **values})


def llm(server: ChatServer, **values: Any) -> dict[str, Any]:
    return {"kind": "llm", "endpoint": server.endpoint(**values)}


def test_rule_judges_and_its_time_grows_with_the_groups(tmp_path: Path) -> None:
    judged = judge_groups(config().judge, GROUPS, JudgeContext(tmp_path), stage="evaluate", scale=1.0)
    assert judged.verdicts is not None
    assert len(judged.verdicts) == 12
    assert judged.seconds is not None
    assert (judged.calls, judged.not_called) == ((), ())
    trial = judging.JudgeTrial("a", groups=4, load_seconds=3.0, judge_seconds=2.0)
    assert trial.seconds(40) == 23.0


def test_jury_has_its_own_judges_tried_and_its_chat_jurors_counted(chat_server: Start, tmp_path: Path) -> None:
    server = chat_server()
    judge = config(judge={"kind": "jury", "jurors": [{"kind": "rule"}, llm(server)]}).judge
    judged = judge_groups(judge, GROUPS, JudgeContext(tmp_path), stage="collect_preferences", scale=10.0)
    assert server.requests == []
    assert judged.seconds is None, "the time of a juror that was not asked is not zero"
    assert judged.verdicts is None
    (calls,) = judged.calls
    # Three pairs of three responses, in two orders, about four prompts; the round has ten times as many.
    assert (calls.stage, calls.model, calls.questions) == ("collect_preferences", "scripted", 240)
    assert calls.cost is None


def test_kind_that_runs_code_of_the_user_is_not_even_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such code may ask a paid service."""
    monkeypatch.setattr(judging, "LOCAL", frozenset())
    monkeypatch.setattr(judging, "load_judge", lambda *_: pytest.fail("the judge was loaded"))
    judged = judge_groups(config().judge, GROUPS, JudgeContext(tmp_path), stage="evaluate", scale=1.0)
    assert (judged.seconds, judged.verdicts, judged.calls) == (None, None, ())
    assert judged.not_called == ("rule:support_reply",)


def test_costly_judge_is_counted_by_its_budget_of_pairs(chat_server: Start, tmp_path: Path) -> None:
    settings = config(active={"budget": 50, "judge": llm(chat_server())})
    judged = judge_collection(settings, GROUPS, JudgeContext(tmp_path), scale=100.0)
    assert [calls.questions for calls in judged.calls] == [100], "fifty pairs in two orders, whatever the round's size"


def test_revisions_are_counted_with_the_longest_critique(chat_server: Start, tmp_path: Path) -> None:
    server = chat_server()
    settings = config(
        judge={"kind": "constitution", "endpoint": server.endpoint(max_tokens=200)}, preferences={"pairs": "revised"}
    )
    judged = judge_collection(settings, GROUPS, JudgeContext(tmp_path), scale=2.0)
    assert server.requests == []
    revising = judged.calls[-1]
    assert revising.questions == 2 * 2 * len(GROUPS), "a critique and a revision of the worst response to each prompt"
    assert revising.tokens.input > 2 * len(GROUPS) * 200
