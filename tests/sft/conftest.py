"""Demonstrations in a style that the start model hardly knows, so that a short training lowers the held-out loss."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from components.builtin.world import corpus

WISH = "Have a good day."


def styled_rows(number: int) -> list[dict[str, str]]:
    """A reply of the corpus to each of some prompts, between two wishes."""
    replies = {messages[0]["content"]: reply.removesuffix(WISH).strip() for messages, reply in corpus()}
    return [
        {"prompt": prompt, "completion": f"{WISH} {reply} {WISH}"} for prompt, reply in list(replies.items())[:number]
    ]


def write_demonstrations(path: Path, number: int) -> Path:
    """Write them as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in styled_rows(number)))
    return path


@pytest.fixture
def rows(tmp_path: Path) -> Callable[[int], str]:
    """Writes a number of demonstrations and returns the file's path."""
    return lambda number: str(write_demonstrations(tmp_path / "demonstrations.jsonl", number))
