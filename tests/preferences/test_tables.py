"""Tables of pairs: what is written reads back as the same pair, and what was sampled stays with its answer."""

import json
from pathlib import Path

import pandas as pd

from components.artifacts import read_table
from components.data.messages import format_messages
from components.data.preference_file import SeedPair, load_seed_pairs
from components.data.prompts import prompt_id
from components.preferences.tables import pair_row, read_groups, write_pairs, write_portable

ASK = [{"role": "system", "content": "Sei nett."}, {"role": "user", "content": "Grüß dich"}]


def test_portable_pairs_and_single_responses_read_back_as_they_were(tmp_path: Path) -> None:
    source = {"tag": "style", "judge": "j", "verdict_ids": ["v"]}
    rows = [
        pair_row(ASK, "good", "bad", p=0.75, margin=2.0, **source),  # type: ignore[arg-type]
        pair_row(ASK, "good", "worse", p=1.0, margin=None, **source),  # type: ignore[arg-type]
        pair_row(ASK, "fine", None, p=1.0, margin=1.0, **source),  # type: ignore[arg-type]
        pair_row(ASK, None, "poor", p=1.0, margin=1.0, **source),  # type: ignore[arg-type]
    ]
    write_pairs(tmp_path, rows, groups=())
    write_portable(tmp_path)
    assert load_seed_pairs(str(tmp_path / "preferences.jsonl"), split="train").pairs == [
        SeedPair(ASK, "good", "bad", 0.75, 2.0, "style"),
        SeedPair(ASK, "good", "worse", 1.0, None, "style"),
        SeedPair(ASK, "fine", None, 1.0, 1.0, "style"),
        SeedPair(ASK, None, "poor", 1.0, 1.0, "style"),
    ]


def test_a_sampled_answer_keeps_its_tokens_and_an_answer_from_outside_has_none(tmp_path: Path) -> None:
    """A text says neither how it was tokenised nor whether the limit cut it."""
    name, law = prompt_id(ASK), json.dumps({"policy": "d", "temperature": 1.0})
    prompts = pd.DataFrame({"prompt_id": [name], "messages": [format_messages(ASK)], "token_ids": [[7, 8]]})
    sampled = [("good", [1, 2, 9], "stop"), ("bad", [4, 5], "length"), ("good", [3, 9], "stop"), ("", [9], "stop")]
    responses = pd.DataFrame(
        [(name, number, text, ids, reason, law) for number, (text, ids, reason) in enumerate(sampled)],
        columns=["prompt_id", "sample_id", "text", "token_ids", "finish_reason", "sampling"],
    )
    source = {"p": 1.0, "margin": None, "tag": "style", "judge": "j", "verdict_ids": []}
    rows = [
        pair_row(ASK, "good", "bad", **source),  # type: ignore[arg-type]
        pair_row(ASK, "a revision", "", **source),  # type: ignore[arg-type]
        pair_row([{"role": "user", "content": "another"}], "good", "bad", **source),  # type: ignore[arg-type]
    ]
    write_pairs(tmp_path, rows, read_groups(prompts, responses))
    written = read_table(tmp_path / "preferences.parquet")
    ids = [None if cell is None else list(cell) for side in ("chosen", "rejected") for cell in written[f"{side}_ids"]]
    assert ids == [[1, 2, 9], None, None, [4, 5], [9], None]
    assert [None if cell is None else list(cell) for cell in written["prompt_ids"]] == [[7, 8], [7, 8], None]
    finished = written[["chosen_finish", "rejected_finish"]].astype(object)
    assert finished.where(finished.notna(), None).to_numpy().tolist() == [
        ["stop", "length"],
        [None, "stop"],
        [None, None],
    ]
    assert written["sampling"].tolist()[:2] == [law, law]
    assert pd.isna(written["sampling"][2])


def test_portable_pairs_keep_tools_and_tool_calls(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    messages = [
        {"role": "user", "content": "Weather?", "tools": [{"type": "function", "function": {"name": "weather"}}]},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "-4"},
    ]
    write_pairs(
        tmp_path,
        [pair_row(messages, "good", "bad", p=1.0, margin=None, tag="t", judge="j", verdict_ids=["v"])],
        groups=(),
    )
    write_portable(tmp_path)
    (line,) = (tmp_path / "preferences.jsonl").read_text().splitlines()
    assert json.loads(line)["tools"] == messages[0]["tools"]
    (pair,) = load_seed_pairs(str(tmp_path / "preferences.jsonl"), split="train").pairs
    assert pair == SeedPair(messages, "good", "bad", 1.0, None, "t")


def test_groups_have_the_columns_of_their_own_prompts() -> None:
    prompts = pd.DataFrame(
        {"prompt_id": ["p", "q"], "messages": [format_messages(ASK)] * 2, "columns": ['{"answer": 1}', "{}"]}
    )
    responses = pd.DataFrame({"prompt_id": ["q", "p"], "sample_id": [0, 0], "text": ["a", "b"]})
    assert [(group.prompt_id, group.columns) for group in read_groups(prompts, responses)] == [
        ("p", {"answer": 1}),
        ("q", {}),
    ]
    bare = read_groups(prompts.drop(columns="columns"), responses)
    assert [group.columns for group in bare] == [{}, {}]
