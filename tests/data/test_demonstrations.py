import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.data.content import content_key
from components.data.demonstrations import EMPTY_TURN, HELD_OUT, NO_PROMPT, NO_TURN, for_policy, read_demonstrations

ASK = {"role": "user", "content": "Is it late?"}
SAY = {"role": "assistant", "content": "It is."}


@pytest.fixture
def source(tmp_path: Path) -> Callable[..., str]:
    def write(*rows: dict[str, Any]) -> str:
        path = tmp_path / "d.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Is it late?", "completion": "It is."},
        {"prompt": [ASK], "completion": [SAY]},
        {"messages": [ASK, SAY]},
        {"messages": json.dumps([ASK, SAY])},
        {"messages": [ASK, SAY, ASK]},  # what follows the last answer demonstrates nothing
        {"conversations": [{"from": "human", "value": "Is it late?"}, {"from": "gpt", "value": "It is."}]},
        {"text": "\n\nHuman: Is it late?\n\nAssistant: It is."},
        {"text": "\n\nHuman: Is it late?\n\nAssistant: It is.\n\nHuman: And now?\n\nAssistant:"},
    ],
)
def test_demonstrations_in_every_form_are_the_same_conversation(
    row: dict[str, Any], source: Callable[..., str]
) -> None:
    read = read_demonstrations(source(row), split="train")
    assert [each.messages for each in read.rows] == [[ASK, SAY]]
    assert read.left_out == {}
    assert read.digest == read_demonstrations(source({"messages": [ASK, SAY]}), split="train").digest


def test_demonstrations_take_the_system_message_of_their_row(source: Callable[..., str]) -> None:
    read = read_demonstrations(
        source({"prompt": "Is it late?", "completion": "It is.", "system": "Be brief."}), split=""
    )
    assert read.rows[0].messages == [{"role": "system", "content": "Be brief."}, ASK, SAY]


def test_demonstrations_of_nothing_are_left_out_by_reason(source: Callable[..., str]) -> None:
    empty = {"role": "assistant", "content": " "}
    read = read_demonstrations(
        source(*({"messages": each} for each in ([ASK], [SAY, ASK, SAY], [ASK, empty], [ASK, empty, ASK, SAY]))),
        split="train",
    )
    assert read.rows == []
    assert read.left_out == {NO_TURN: 1, NO_PROMPT: 1, EMPTY_TURN: 2}
    assert read.num_rows == 4


def test_demonstrations_with_the_same_first_prompt_share_its_key_whatever_follows(source: Callable[..., str]) -> None:
    rows = [[ASK, SAY], [{**ASK, "content": "is it  LATE?"}, SAY, ASK, SAY], [{**ASK, "content": "Why?"}, SAY]]
    keys = [each.first_prompt for each in read_demonstrations(source(*({"messages": m} for m in rows)), split="").rows]
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"question": "a"}, r"has no demonstrations \(columns: question\): name a data set with prompt and completion"),
        ({"text": "no transcript"}, r"line 1: text is not a transcript"),
        ({"prompt": "a", "completion": 3}, r"line 1: expected text or a list of chat messages, but got int"),
        ({"prompt": " ", "completion": "a"}, r"line 1: the prompt is empty"),
        ({"messages": []}, r"line 1: the conversation is empty"),
        ({"messages": [{"role": "narrator", "content": "a"}]}, r"message 1 has role 'narrator'"),
    ],
)
def test_demonstrations_that_are_malformed_are_refused_with_their_place(
    row: dict[str, Any], told: str, source: Callable[..., str]
) -> None:
    with pytest.raises(ValueError, match=told):
        read_demonstrations(source(row), split="train")


def test_demonstrations_for_a_policy_have_its_system_prompt_and_no_answer_to_a_held_out_prompt(
    source: Callable[..., str],
) -> None:
    led = {"role": "system", "content": "Be brief."}
    rows = [
        [ASK, SAY],
        [{**ASK, "content": "is it  LATE?"}, SAY],
        [led, ASK, SAY],
        [{**ASK, "content": "Why?"}, SAY, ASK, SAY],
        [{**ASK, "content": "Why?"}, SAY],
    ]
    read = read_demonstrations(source(*({"messages": each} for each in rows)), split="")
    kept = for_policy(read, system_prompt="Be brief.", held_out={content_key([ASK])})
    assert kept.left_out == {HELD_OUT: 3}
    assert [row.messages for row in kept.rows] == [[led, *rows[3]], [led, *rows[4]]]
    whole = for_policy(read, system_prompt="", held_out={content_key([*rows[3][:3]])})
    assert whole.left_out == {HELD_OUT: 1}
    assert whole.digest == read.digest
