"""What a reward model is trained and measured on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from components.artifacts import write_table
from components.builtin.starter import build_tokenizer
from components.config import RewardModelConfig
from components.preferences.tables import pair_row
from components.reward_model.pairs import PreparedPairs, prepare_pairs, read_pair_table

Write = Callable[[list[dict[str, Any]]], str]
TOKENIZER = build_tokenizer()


def prepared(source: str, *, max_tokens: int = 64, **settings: Any) -> PreparedPairs:
    return prepare_pairs(
        read_pair_table(source, split="train"), TOKENIZER, RewardModelConfig(**settings), max_tokens=max_tokens
    )


def rows(number: int) -> list[dict[str, Any]]:
    return [
        {"prompt": f"order number {index}", "chosen": "thank you", "rejected": f"no {index}"} for index in range(number)
    ]


def test_prepare_pairs_leaves_out_and_counts_what_cannot_be_learnt_from(write_rows: Write) -> None:
    defects = [
        {"prompt": "a", "chosen": "same", "rejected": "same "},
        {"prompt": "b", "chosen": "good " * 80, "rejected": "bad"},
        {"prompt": "c", "chosen": "yes", "rejected": "no", "p": 1.5},
        {"prompt": "d", "completion": "alone", "label": True},
        {"prompt": "order number 1", "chosen": "thank you", "rejected": "no 1"},
        {"prompt": "e", "chosen": "up", "rejected": "down"},
        {"prompt": "e", "chosen": "down", "rejected": "up"},
        {
            "chosen": [{"role": "user", "content": "e"}, {"role": "assistant", "content": "x"}],
            "rejected": [{"role": "user", "content": "f"}, {"role": "assistant", "content": "x"}],
        },
    ]
    found = prepared(write_rows([*rows(20), *defects]), max_tokens=64)
    assert found.excluded == {
        "contradicts another pair": 2,
        "chosen equals rejected": 1,
        "conversations part before the last answer": 1,
        "duplicate of another pair": 1,
        "longer than 64 tokens": 1,
        "p is outside [0, 1]": 1,
        "rejected is no text": 1,
    }
    assert len(found.train) + len(found.held_out) == 20


def test_prepare_pairs_keeps_all_pairs_of_a_prompt_on_one_side(write_rows: Write) -> None:
    several = [
        {"prompt": f"order number {index % 10}", "chosen": f"yes {index}", "rejected": "no"} for index in range(40)
    ]
    found = prepared(write_rows(several), eval_share=0.3, seed=4)
    assert len(found.held_out) == len(found.held_out_rows) == 12
    assert found.held_out_rows["prompt_id"].nunique() == 3
    assert [pair.name.split("prompt ")[1].rstrip(")") for pair in found.held_out] == found.held_out_rows[
        "prompt_id"
    ].tolist()
    again = prepared(write_rows(several[::-1]), eval_share=0.3, seed=4)
    assert set(again.held_out_rows["prompt_id"]) == set(found.held_out_rows["prompt_id"]), "the split is by content"


def test_prepare_pairs_reads_whole_conversations_as_the_judge_does(write_rows: Write) -> None:
    found = prepared(write_rows(rows(4)), eval_share=0.25)
    (row,) = found.held_out_rows.to_dict("records")
    text = f"<|user|>order number {row['rejected'].removeprefix('no ')}<|end|><|assistant|>{row['rejected']}<|end|>"
    assert found.held_out[0].rejected == TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert found.held_out[0].prompt == []


def test_read_pair_table_of_a_round_takes_its_prompts_as_conversations(tmp_path: Path) -> None:
    made = [
        pair_row(
            [{"role": "user", "content": f"Thank you {n}"}],
            "yes",
            "no",
            p=0.8,
            margin=1.0,
            tag="t",
            judge="j",
            verdict_ids=[],
        )
        for n in range(9)
    ]
    write_table(tmp_path / "train.parquet", pd.DataFrame(made).assign(origin_round=1))
    found = prepared(str(tmp_path / "train.parquet"), eval_share=0.2)
    assert (len(found.train), len(found.held_out)) == (7, 2)
    assert {pair.p for pair in found.train} == {0.8}
    assert TOKENIZER.decode(found.train[0].chosen).startswith("<|user|> Thank you")


def test_read_pair_table_digest_is_that_of_the_content(write_rows: Write) -> None:
    first = read_pair_table(write_rows(rows(3)), split="train").digest
    assert read_pair_table(write_rows(rows(3)), split="train").digest == first
    assert read_pair_table(write_rows(rows(4)), split="train").digest != first


@pytest.mark.parametrize(
    ("made", "settings", "told"),
    [
        (
            [{"prompt": "a", "chosen": "x", "rejected": "x"}],
            {},
            r"no pair can be used: 1 rows \(1 x chosen equals rejected\): name other pairs",
        ),
        (
            rows(3),
            {"eval_share": 0.1},
            r"measure on: 3 rows gave 3 pairs \(3 x not held out by eval_share = 0.1 of 3 prompts\): name more",
        ),
        (
            rows(1),
            {"eval_share": 0.9},
            r"train on: 1 rows gave 1 pairs \(1 x held out by eval_share = 0.9 of 1 prompts\): name more pairs",
        ),
    ],
)
def test_prepare_pairs_without_a_pair_on_each_side_is_refused(
    write_rows: Write, made: list[dict[str, Any]], settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        prepared(write_rows(made), **settings)
