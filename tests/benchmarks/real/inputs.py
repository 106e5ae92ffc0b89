"""Real human preferences as the inputs of `make real`: two halves that share no prompt, and the prompts of each."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from components.data.messages import Messages
from components.data.preference_file import SeedPair, load_seed_pairs
from components.data.prompts import content_key


class Inputs(NamedTuple):
    """The files that were written."""

    pairs: tuple[Path, Path]
    """Preference pairs of the two halves."""
    prompts: Path
    """First turns of the first half, to sample from."""
    held_out: Path
    """First turns of the second half, for the gate."""
    audit: Path
    """Further first turns of the second half, which no gate sees."""


def write_inputs(source: str, place: Path, *, split: str, limit: int, num_held_out: int, num_audit: int) -> Inputs:
    """Split pairs by the content of their first turn.

    Args:
        source: A preference data set.
        place: Folder of the files.
        split: Split of a data set with splits.
        limit: Most pairs to take, chosen by content.
        num_held_out: First turns of the second half that are held out for the gate.
        num_audit: Most of the further ones for the audit.
    """
    pairs = sorted(load_seed_pairs(source, split=split).pairs, key=lambda pair: _order(pair.messages))[:limit]
    halves = [[pair for pair in pairs if _side(pair.messages) == side] for side in (0, 1)]
    place.mkdir(parents=True, exist_ok=True)
    first, second = ([pair.messages[:1] for pair in half if pair.messages[0]["role"] == "user"] for half in halves)
    second = list({content_key(messages): messages for messages in second}.values())[: num_held_out + num_audit]
    judge_pairs, evaluation_pairs = (
        _write(place / f"pairs_{number}.jsonl", map(_row, half)) for number, half in enumerate(halves, 1)
    )
    return Inputs(
        pairs=(judge_pairs, evaluation_pairs),
        prompts=_write(place / "prompts.jsonl", ({"prompt": messages} for messages in first)),
        held_out=_write(place / "held_out.jsonl", ({"prompt": messages} for messages in second[:num_held_out])),
        audit=_write(place / "audit.jsonl", ({"prompt": messages} for messages in second[num_held_out:])),
    )


def _row(pair: SeedPair) -> dict[str, Any]:
    return {"prompt": pair.messages, "chosen": pair.chosen, "rejected": pair.rejected}


def _order(messages: Messages) -> str:
    return hashlib.sha256(content_key(messages).encode()).hexdigest()


def _side(messages: Messages) -> int:
    """Return the half of a conversation, by its first turn: dialogues that begin alike are on one side."""
    return int(hashlib.sha256(content_key(messages[:1]).encode()).hexdigest(), 16) % 2


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path
