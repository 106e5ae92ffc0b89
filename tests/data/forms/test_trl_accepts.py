"""TRL's own utilities read the files that are written for it as what they are."""

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from trl.data_utils import is_conversational, maybe_extract_prompt, maybe_unpair_preference_dataset

from components.data.forms.convert import convert

HI = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
GOOD, BAD = [{"role": "assistant", "content": "Hello!"}], [{"role": "assistant", "content": "What?"}]


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "in.jsonl"
    rows = [{"prompt": HI, "chosen": GOOD, "rejected": BAD, "p": 0.9}, {"prompt": "Hi", "chosen": "a", "rejected": "b"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def converted(source: str, target: str, folder: Path) -> list[dict[str, Any]]:
    out = folder / f"{target}.jsonl"
    convert(source, out, target=target, unfit="skip")
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_trl_takes_chat_rows_as_conversational_pairs_with_a_prompt(source: str, tmp_path: Path) -> None:
    for target in ("trl", "ratchet"):
        for row in converted(source, target, tmp_path):
            assert is_conversational(row)
            assert maybe_extract_prompt(row) == row


def test_trl_takes_text_rows_as_plain_pairs(source: str, tmp_path: Path) -> None:
    (row,) = converted(source, "trl-text", tmp_path)
    assert not is_conversational(row)
    assert maybe_extract_prompt(row) == row == {"prompt": "Hi", "chosen": "a", "rejected": "b"}


def test_trl_extracts_the_prompt_of_implicit_rows(source: str, tmp_path: Path) -> None:
    row, _ = converted(source, "trl-implicit", tmp_path)
    assert maybe_extract_prompt(row) == {"prompt": HI, "chosen": GOOD, "rejected": BAD}


def test_trl_takes_kto_rows_as_its_own_unpaired_ones(source: str, tmp_path: Path) -> None:
    pairs = Dataset.from_list(converted(source, "trl", tmp_path))
    ours = Dataset.from_list(converted(source, "kto", tmp_path))
    assert maybe_unpair_preference_dataset(ours) is ours

    def ordered(data: Dataset) -> list[str]:
        return sorted(json.dumps(row, sort_keys=True) for row in data.to_list())

    assert ordered(ours) == ordered(maybe_unpair_preference_dataset(pairs))
