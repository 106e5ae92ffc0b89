"""The other columns of prompts' rows: what is carried, in which form, and what pins it."""

import datetime
import decimal
import json
import logging
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from components.config import PromptsConfig
from components.data.columns import columns_of_table, format_columns
from components.data.preference_file import load_seed_pairs
from components.data.prompts import PromptSplit, load_prompts, split_prompts
from components.preferences.standalone.calibration import questions
from components.preferences.standalone.kept import write_groups
from components.preferences.standalone.responses_file import read_responses


def lines(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def split(tmp_path: Path, *rows: dict[str, Any], carries: bool = True) -> PromptSplit:
    source = lines(tmp_path / "train.jsonl", *rows)
    return split_prompts(PromptsConfig(train=source, held_out="", num_held_out=1), carries_columns=carries)


def test_columns_are_all_but_those_of_the_prompt(tmp_path: Path) -> None:
    row = {"question": "2 + 2?", "system": "Be brief.", "tools": [], "answer": "4", "tests": [["f(1)", 2]], "id": None}
    (prompt,) = load_prompts(lines(tmp_path / "a.jsonl", row), column="question", split="train", carries_columns=True)
    assert prompt.columns == {"answer": "4", "tests": [["f(1)", 2]], "id": None}


def test_values_that_json_cannot_hold_are_converted_or_left_out_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = pd.DataFrame(
        {
            "prompt": ["a", "b"],
            "score": [0.5, float("nan")],
            "when": [datetime.datetime(2026, 11, 29, 20, 5), None],
            "price": [decimal.Decimal("1.10"), None],
            "took": [datetime.timedelta(seconds=90), None],
            "tags": [["x"], []],
            "picture": [None, b"\xff"],
            "limit": [float("inf"), 1.0],
        }
    )
    table.to_parquet(tmp_path / "a.parquet")
    with caplog.at_level(logging.WARNING):
        first, second = load_prompts(str(tmp_path / "a.parquet"), column="prompt", split="train", carries_columns=True)
    assert first.columns == {
        "score": 0.5,
        "when": "2026-11-29T20:05:00",
        "price": "1.10",
        "took": 90.0,
        "tags": ["x"],
    }
    assert second.columns == {"score": None, "when": None, "price": None, "took": None, "tags": []}
    (message,) = caplog.messages
    assert message.endswith(
        "a.parquet: these columns are not carried, because JSON cannot hold them: "
        f"limit ({tmp_path}/a.parquet row 1 holds an infinity), "
        f"picture ({tmp_path}/a.parquet row 2 holds a value of type bytes)"
    )


def test_digest_pins_columns_only_where_something_reads_them(tmp_path: Path) -> None:
    """A campaign that reads no columns must not see its prompts change, nor one that reads them miss a new answer."""
    bare = split(tmp_path, {"prompt": "a"}, {"prompt": "b"})
    one, other = ((split(tmp_path, {"prompt": "a", "answer": x}, {"prompt": "b"})) for x in "12")
    unread = split(tmp_path, {"prompt": "a", "answer": "1"}, {"prompt": "b"}, carries=False)
    assert bare.digest == unread.digest
    assert len({bare.digest, one.digest, other.digest}) == 3


def test_a_repeated_prompt_keeps_the_first_rows_columns_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    both = split(
        tmp_path,
        {"prompt": "2 + 2?", "answer": "4", "id": 1},
        {"prompt": "x"},
        {"prompt": "2 + 2? ", "answer": "5", "id": 1},
        {"prompt": "2 + 2?", "answer": "4", "id": 1},
    )
    columns = [prompt.columns for prompt in (*both.train, *both.held_out) if prompt.columns]
    assert columns == [{"answer": "4", "id": 1}]
    (message,) = [message for message in caplog.messages if "repeat" in message]
    assert "1 rows repeat a prompt with other values in other columns, and the first row's are used" in message
    assert "line 3 is like" in message
    assert message.endswith("line 1, but differs in answer): remove one of them")


def test_columns_of_responses_reach_their_groups_and_the_published_table(tmp_path: Path) -> None:
    source = lines(
        tmp_path / "r.jsonl",
        {"prompt": "Hi", "responses": ["a", "b"], "answer": {"é": [1.5, None]}},
        {"prompt": "Bye", "responses": ["c"]},
    )
    groups = read_responses(source, split="train", carries_columns=True)
    assert [group.columns for group in groups] == [{"answer": {"é": [1.5, None]}}, {}]
    assert [group.columns for group in read_responses(source, split="train")] == [{}, {}]
    write_groups(tmp_path, groups)
    assert columns_of_table(pd.read_parquet(tmp_path / "prompts.parquet")) == [group.columns for group in groups]
    write_groups(tmp_path, groups[1:])
    assert "columns" not in pd.read_parquet(tmp_path / "prompts.parquet")


def test_columns_of_labelled_pairs_reach_the_questions(tmp_path: Path) -> None:
    row = {"prompt": "Hi", "chosen": "a", "rejected": "b", "tag": "style", "answer": "a"}
    source = lines(tmp_path / "p.jsonl", row)
    pairs = load_seed_pairs(source, split="train", carries_columns=True)
    (question,) = questions(pairs.pairs, default_tag="t")
    assert question.group.columns == {"tag": "style", "answer": "a"}
    assert load_seed_pairs(source, split="train").digest != pairs.digest


def test_format_of_columns_reads_back() -> None:
    columns = {"b": [True, 10**30, "ü\n"], "a": None}
    assert json.loads(format_columns(columns)) == columns
