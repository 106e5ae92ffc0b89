"""Submissions and rows of thumbs for tests."""

from typing import Any

from components.feedback.store import FeedbackStore, Origin, Thumb
from components.feedback.submission import Submission, read_submission

QUESTION = [{"role": "user", "content": "My kettle arrived broken."}]
ORIGIN = Origin(round=1, model_digest="d", arm=None, finish_reason="stop")


def content(**changes: Any) -> dict[str, Any]:
    """What a client sends."""
    return {
        "client_id": "c1",
        "conversation_id": "v1",
        "completion_id": "a1",
        "messages": QUESTION,
        "response": "I am sorry.",
        "thumb": "up",
        "consent": True,
    } | changes


def submission(**changes: Any) -> Submission:
    return read_submission(content(**changes))


def keep(store: FeedbackStore, number: int, *, origin: Origin | None = ORIGIN, **changes: Any) -> str:
    """Keep a thumb on an answer of its own and return the row's id."""
    own = {
        "client_id": f"c{number}",
        "conversation_id": f"v{number}",
        "completion_id": f"a{number}",
        "response": f"answer {number}",
    }
    return store.add(submission(**(own | changes)), origin=origin, consent="I agree")[0]


def thumb(number: int, **changes: Any) -> Thumb:
    values: dict[str, Any] = {
        "number": number,
        "row_id": f"r{number}",
        "received_at": "2026-12-01T00:00:00+00:00",
        "conversation_id": f"v{number}",
        "completion_id": f"a{number}",
        "messages": '[{"role": "user", "content": "Hello"}]',
        "response": f"answer {number}",
        "correction": None,
        "thumb": "up",
        "corrected": changes.get("correction") is not None,
        "served": True,
        "finish_reason": "stop",
        "round": 1,
        "model": None,
        "arm": None,
        "erased_at": None,
    }
    return Thumb(**(values | changes))
