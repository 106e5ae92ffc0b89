"""Pairs of the built-in world, labelled by its rule."""

import json
import random
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.builtin.world import corpus, support_reply, train_prompts


def labelled_pairs(number: int) -> list[dict[str, Any]]:
    """The best and the worst of six replies to each prompt, most of them written for other prompts."""
    replies, rng, own = [reply for _, reply in corpus()], random.Random(3), defaultdict(list)
    for messages, reply in corpus():
        own[messages[0]["content"]].append(reply)
    rows = []
    for messages in train_prompts()[:number]:
        prompt = messages[0]["content"]
        ranked = sorted({*own[prompt], *rng.sample(replies, 5)}, key=lambda reply: support_reply(messages, reply))
        tag = "style" if len(rows) % 4 == 0 else "helpfulness"
        rows.append({"prompt": prompt, "chosen": ranked[-1], "rejected": ranked[0], "tag": tag})
    return rows


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[[list[dict[str, Any]]], str]:
    """Writes rows as JSON lines and returns the file's path."""

    def write(rows: list[dict[str, Any]]) -> str:
        path = tmp_path / "pairs.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write
