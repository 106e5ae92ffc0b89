"""Pairs written for other programs: what is written reads back as the same pair."""

import json
from pathlib import Path

from components.data.preference_file import SeedPair, load_seed_pairs
from components.preferences.tables import pair_row, write_pairs, write_portable

ASK = [{"role": "system", "content": "Sei nett."}, {"role": "user", "content": "Grüß dich"}]


def test_portable_pairs_and_single_responses_read_back_as_they_were(tmp_path: Path) -> None:
    source = {"tag": "style", "judge": "j", "verdict_ids": ["v"]}
    rows = [
        pair_row(ASK, "good", "bad", p=0.75, margin=2.0, **source),  # type: ignore[arg-type]
        pair_row(ASK, "good", "worse", p=1.0, margin=None, **source),  # type: ignore[arg-type]
        pair_row(ASK, "fine", None, p=1.0, margin=1.0, **source),  # type: ignore[arg-type]
        pair_row(ASK, None, "poor", p=1.0, margin=1.0, **source),  # type: ignore[arg-type]
    ]
    write_pairs(tmp_path, rows)
    write_portable(tmp_path)
    assert load_seed_pairs(str(tmp_path / "preferences.jsonl"), split="train").pairs == [
        SeedPair(ASK, "good", "bad", 0.75, 2.0, "style"),
        SeedPair(ASK, "good", "worse", 1.0, None, "style"),
        SeedPair(ASK, "fine", None, 1.0, 1.0, "style"),
        SeedPair(ASK, None, "poor", 1.0, 1.0, "style"),
    ]


def test_portable_pairs_keep_tools_and_tool_calls(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    messages = [
        {"role": "user", "content": "Weather?", "tools": [{"type": "function", "function": {"name": "weather"}}]},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "-4"},
    ]
    write_pairs(
        tmp_path, [pair_row(messages, "good", "bad", p=1.0, margin=None, tag="t", judge="j", verdict_ids=["v"])]
    )
    write_portable(tmp_path)
    (line,) = (tmp_path / "preferences.jsonl").read_text().splitlines()
    assert json.loads(line)["tools"] == messages[0]["tools"]
    (pair,) = load_seed_pairs(str(tmp_path / "preferences.jsonl"), split="train").pairs
    assert pair == SeedPair(messages, "good", "bad", 1.0, None, "t")
