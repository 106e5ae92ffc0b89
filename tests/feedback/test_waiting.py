"""What lies ready for a round, before anything is taken or deleted."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from components.config import CampaignConfig
from components.feedback.store import STORE, FeedbackStore
from components.feedback.waiting import ready_thumbs
from tests.feedback.thumbs import keep


def test_texts_that_a_start_would_delete_do_not_lie_ready_and_are_not_deleted(tmp_path: Path) -> None:
    feedback = {"use": "only", "min_rows": 2, "retention_days": 30}
    config = CampaignConfig.model_validate(
        {
            "campaign": "small",
            "preferences": {"pairs": "unpaired", "feedback": feedback},
            "training": {"loss": "kto"},
        }
    )
    store = FeedbackStore(tmp_path / STORE)
    rows = [keep(store, 1), keep(store, 2, thumb="down")]
    now = datetime.now(UTC)
    assert [row.row_id for row in ready_thumbs(tmp_path, config, 1, now=now + timedelta(days=29)).rows] == rows
    late = ready_thumbs(tmp_path, config, 1, now=now + timedelta(days=31))
    assert late.rows == []
    assert late.left_out == {"deleted after preferences.feedback.retention_days": 2}
    assert [row.response for row in store.rows()] == ["answer 1", "answer 2"]
