"""Taking thumbs: each row once over the rounds, and the same rows if a round is started again."""

from pathlib import Path
from typing import Any

import pytest

from components.artifacts import MANIFEST, artifact, read_json, read_record, read_table
from components.config import FeedbackConfig
from components.feedback.store import STORE, FeedbackStore
from components.records import Artifact, DataRejected, Manifest, TakeFeedbackRequest
from components.runtime.launch import run_stage
from tests.feedback.thumbs import keep


@pytest.fixture
def store(tmp_path: Path) -> FeedbackStore:
    return FeedbackStore(tmp_path / STORE)


def request(store: FeedbackStore, *earlier: Artifact, use: Any = "only", **settings: Any) -> TakeFeedbackRequest:
    return TakeFeedbackRequest(
        store=store.path,
        feedback=FeedbackConfig(use=use, **({"min_rows": 2} | settings)),
        singles=True,
        cut_answers=True,
        phone_region="US",
        earlier=earlier,
    )


def take(directory: Path, request: TakeFeedbackRequest) -> tuple[list[str], Artifact]:
    manifest = run_stage("take_feedback", request, directory)
    table = artifact(directory / "take_feedback", manifest, "thumbs.parquet")
    return list(read_table(table)["row_id"]), table


def test_take_feedback_gives_each_row_to_one_round(store: FeedbackStore, tmp_path: Path) -> None:
    first_rows = [keep(store, 1), keep(store, 2, thumb="down"), keep(store, 3, response="to bob@acme-widgets.com")]
    taken, first = take(tmp_path / "round-001", request(store))
    assert taken == first_rows
    reasons = read_table(first)["reason"]
    assert list(reasons.notna()) == [False, False, True]
    assert "bob@" not in first.path.read_bytes().decode("latin-1"), "a round must not copy what it sets aside"
    later = [keep(store, 4), keep(store, 5, thumb="down")]
    taken, second = take(tmp_path / "round-002", request(store, first))
    assert taken == later
    with pytest.raises(DataRejected, match="no round without thumbs: 0 usable thumbs are unused"):
        take(tmp_path / "round-003", request(store, first, second))
    assert not (tmp_path / "round-003" / "take_feedback").exists()


def test_take_feedback_of_a_round_that_is_started_again_is_the_same(store: FeedbackStore, tmp_path: Path) -> None:
    rows = [keep(store, 1), keep(store, 2, thumb="down")]
    _, before = take(tmp_path / "round-001", request(store))
    keep(store, 3)
    store.delete_conversation("v1")
    taken, after = take(tmp_path / "round-001", request(store, retention_days=1, consent="other words"))
    assert taken == rows
    assert after == before


def test_take_feedback_beside_a_judged_round_waits_for_enough(store: FeedbackStore, tmp_path: Path) -> None:
    keep(store, 1)
    taken, first = take(tmp_path / "round-001", request(store, use="with_round"))
    assert taken == []
    counts = read_json(tmp_path / "round-001" / "take_feedback" / "feedback.json")
    assert counts["waiting"] == 1
    assert counts["shortage"].startswith("1 usable thumbs are unused, fewer than")
    keep(store, 2, thumb="down")
    taken, _ = take(tmp_path / "round-002", request(store, first, use="with_round"))
    assert len(taken) == 2


def test_take_feedback_manifest_is_the_only_record_of_what_was_taken(store: FeedbackStore, tmp_path: Path) -> None:
    keep(store, 1)
    keep(store, 2, thumb="down")
    before = store.path.read_bytes()
    take(tmp_path / "round-001", request(store))
    assert store.path.read_bytes() == before
    manifest = read_record(Manifest, tmp_path / "round-001" / "take_feedback" / MANIFEST)
    assert manifest.files["thumbs.parquet"].rows == 2
