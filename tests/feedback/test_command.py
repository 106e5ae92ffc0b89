"""`ratchet feedback` as users call it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from components.artifacts import write_json
from components.campaign.state import Champion, State, write_state
from components.config import CampaignConfig
from components.feedback.store import STORE, FeedbackStore
from flows.cli import app
from tests.feedback.thumbs import keep


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A campaign that has begun."""
    monkeypatch.setenv("RATCHET_RUNS", str(tmp_path))
    here = tmp_path / "demo"
    here.mkdir()
    config = CampaignConfig.model_validate({"campaign": "demo", "preferences": {"feedback": {"retention_days": 30}}})
    write_json(here / "config.json", config.model_dump(mode="json"))
    write_state(here, State(campaign="demo", champion=Champion(round=0, digest="d")))
    return here


def told(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["feedback", "demo", *arguments])
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def test_feedback_command_counts_exports_and_deletes(directory: Path, tmp_path: Path) -> None:
    assert "campaign demo has no thumbs" in told()
    store = FeedbackStore(directory / STORE)
    keep(store, 1)
    keep(store, 2, thumb="down")
    keep(store, 3, correction="Better.", origin=None)
    keep(store, 4, conversation_id="v1", completion_id="a1", response="answer 1", thumb="down")  # a change of mind
    shown = told()
    assert "not known to be ours 0 0 1" in shown
    assert "round 1 0 2 0" in shown
    assert "3 thumbs: 3 unused by any round, 0 with their texts deleted, 1 about answers not known to be ours" in shown
    assert "3 rows in" in told("--export", str(tmp_path / "out.jsonl"))
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row.get("label", "pair") for row in rows] == [False, "pair", False]
    assert "exists: name a new file" in told("--export", str(tmp_path / "out.jsonl"), code=2)
    assert "deleted 2 thumbs of conversation v1" in told("--delete", "v1")
    assert "nothing is kept of a conversation v1" in told("--delete", "v1", code=2)
    assert len(store.rows()) == 2


def test_feedback_command_deletes_texts_beyond_the_retention_limit(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import UTC, datetime, timedelta

    from components.feedback import store as module

    monkeypatch.setattr(module, "_now", lambda: datetime.now(UTC) - timedelta(days=31))
    keep(FeedbackStore(directory / STORE), 1)
    monkeypatch.undo()
    monkeypatch.setenv("RATCHET_RUNS", str(directory.parent))
    shown = told()
    assert "deleted the texts of 1 thumbs that are older than 30 days" in shown
    assert "1 with their texts deleted" in shown
