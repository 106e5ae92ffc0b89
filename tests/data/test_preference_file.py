"""Reading preference data sets: every form gives the same pair, and every fault names its row."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data.preference_file import SeedPair, SeedPairs, load_seed_pairs
from components.data.prompts import content_key, load_prompts

ASK = {"role": "user", "content": "Hi"}
SYSTEM = {"role": "system", "content": "Be kind."}
GOOD, BAD = {"role": "assistant", "content": "Hello!"}, {"role": "assistant", "content": "What?"}
CALL = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": {}}}
TURNS = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Help me.\n\nAssistant:"
TURN_MESSAGES = [ASK, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "Help me."}]


def load(tmp_path: Path, *rows: dict[str, Any]) -> SeedPairs:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_seed_pairs(str(path), split="train")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"},
        {"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": json.dumps([ASK]), "chosen": "Hello!", "rejected": "What?"},
        {"prompt": json.dumps([ASK]), "chosen": json.dumps([GOOD]), "rejected": json.dumps([BAD])},
        {"chosen": json.dumps([ASK, GOOD]), "rejected": json.dumps([ASK, BAD])},
        {"prompt": [ASK], "chosen": GOOD, "rejected": BAD},
        {
            "prompt": [{"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "Hello!"},
            "rejected": {"from": "gpt", "value": "What?"},
        },
        {"prompt": "Hi", "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": [ASK], "chosen": "Hello!", "rejected": "What?"},
        {"chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
        {"prompt": "Hi ", "chosen": [ASK, GOOD], "rejected": [ASK, BAD], "messages": [ASK, GOOD], "prompt_id": "x"},
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello!", "rejected": "\n\nHuman: Hi\n\nAssistant: What?"},
        {"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": "Hello!", "rejected": "What?"},
        {
            "prompt": "\n\nHuman: Hi\n\nAssistant:",
            "chosen": "Human: Hi\n\nAssistant: Hello!",
            "rejected": "Human: Hi\n\nAssistant: What?",
        },
    ],
)
def test_pair_of_every_form_is_the_same(row: dict[str, Any], tmp_path: Path) -> None:
    assert load(tmp_path, row).pairs == [SeedPair([ASK], "Hello!", "What?", None, None, None)]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi", "completion": "Hello!"},
        {"prompt": [ASK], "completion": [GOOD]},
        {"completion": [ASK, GOOD]},
        {"completion": "\n\nHuman: Hi\n\nAssistant: Hello!"},
    ],
)
def test_single_response_is_chosen_or_rejected_by_its_label(row: dict[str, Any], tmp_path: Path) -> None:
    good, bad = load(tmp_path, row | {"label": True, "p": 0.9}, row | {"label": False}).pairs
    assert good == SeedPair([ASK], "Hello!", None, 0.9, None, None)
    assert bad == SeedPair([ASK], None, "Hello!", None, None, None)
    assert good.is_single
    assert bad.is_single


@pytest.mark.parametrize("label", [None, 1, "yes"])
def test_single_response_without_a_label_is_refused_by_its_row(label: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pairs.jsonl.*1: label is .*: write true if the completion is desirable"):
        load(tmp_path, {"prompt": "Hi", "completion": "Hello!", "label": label})


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [SYSTEM, ASK], "chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
        {"prompt": "Hi", "chosen": [SYSTEM, ASK, GOOD], "rejected": [SYSTEM, ASK, BAD]},
        {"prompt": [SYSTEM, ASK], "chosen": [GOOD], "rejected": [BAD]},
        {"system": "Be kind.", "prompt": "Hi", "chosen": "Hello!", "rejected": "What?"},
        {"system": "Be kind.", "chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
        {"system": "Be kind.", "prompt": [SYSTEM, ASK], "chosen": [GOOD], "rejected": [BAD]},
    ],
)
def test_system_message_on_either_side_is_kept(row: dict[str, Any], tmp_path: Path) -> None:
    (pair,) = load(tmp_path, row).pairs
    assert pair.messages == [SYSTEM, ASK]


def test_tools_of_a_prompt_are_kept_in_front_of_the_answer(tmp_path: Path) -> None:
    before = [ASK, {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "-4"}]
    tools = [{"type": "function", "function": {"name": "weather"}}]
    (pair,) = load(tmp_path, {"chosen": [*before, GOOD], "rejected": [*before, BAD], "tools": tools}).pairs
    assert pair == SeedPair([{**ASK, "tools": tools}, *before[1:]], "Hello!", "What?", None, None, None)


def test_conversations_that_differ_in_a_tool_call_only_give_no_pair(tmp_path: Path) -> None:
    def turns(city: str, answer: dict[str, str]) -> list[dict[str, Any]]:
        call = {**CALL, "function": {"name": "weather", "arguments": {"city": city}}}
        return [
            ASK,
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "?"},
            answer,
        ]

    plain = {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}
    parted = {"chosen": turns("Oslo", GOOD), "rejected": turns("Rome", BAD)}
    assert load(tmp_path, plain, parted).split_earlier == (f"{tmp_path / 'pairs.jsonl'} line 2",)


def test_transcripts_of_several_turns_share_all_but_the_last(tmp_path: Path) -> None:
    (pair,) = load(tmp_path, {"chosen": f"{TURNS} Gladly.\n\nHow?", "rejected": f"{TURNS} No."}).pairs
    assert pair == SeedPair(TURN_MESSAGES, "Gladly.\n\nHow?", "No.", None, None, None)


def test_transcript_with_two_turns_of_one_speaker_joins_them(tmp_path: Path) -> None:
    start = "\n\nHuman: Hi\n\nHuman: there\n\nAssistant: "
    (pair,) = load(tmp_path, {"chosen": f"{start}yes", "rejected": f"{start}no"}).pairs
    assert pair.messages == [{"role": "user", "content": "Hi\n\nthere"}]


def test_answer_that_quotes_a_dialogue_stays_whole(tmp_path: Path) -> None:
    scene = "Human: To be?\n\nAssistant: Or not to be."
    (pair,) = load(tmp_path, {"prompt": "Write a scene.", "chosen": scene, "rejected": "No."}).pairs
    assert pair.chosen == scene


def test_transcript_beside_its_plain_prompt_is_not_taken_for_the_answer(tmp_path: Path) -> None:
    before = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Help me.\n\nAssistant:"
    (pair,) = load(tmp_path, {"prompt": "Help me.", "chosen": f"{before} Gladly.", "rejected": f"{before} No."}).pairs
    assert pair == SeedPair(TURN_MESSAGES, "Gladly.", "No.", None, None, None)


def test_conversations_that_part_earlier_give_no_pair_and_are_named(tmp_path: Path) -> None:
    parted = {
        "chosen": "\n\nHuman: Hi\n\nAssistant: A\n\nHuman: B\n\nAssistant: C",
        "rejected": "\n\nHuman: Hi\n\nAssistant: D",
    }
    read = load(tmp_path, {"chosen": [ASK, GOOD], "rejected": [ASK, BAD]}, parted)
    assert len(read.pairs) == 1
    assert read.split_earlier == (f"{tmp_path / 'pairs.jsonl'} line 2",)
    with pytest.raises(ValueError, match="has no pair of answers to the same prompt"):
        load(tmp_path, parted)


def test_optional_columns_are_read_and_their_absence_is_kept(tmp_path: Path) -> None:
    plain = {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}
    rows = [
        {**plain, "p": 0.8, "margin": 2, "tag": "safety"},
        {**plain, "score_chosen": 8.5, "score_rejected": 6.0},
        {**plain, "chosen-rating": 4, "rejected-rating": 4},
        {**plain, "score_chosen": 8.5, "p": None},
    ]
    found = [(pair.p, pair.margin, pair.tag) for pair in load(tmp_path, *rows).pairs]
    assert found == [(0.8, 2.0, "safety"), (None, 2.5, None), (None, 0.0, None), (None, None, None)]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            {"prompt": "Hi", "completion": "x", "label": True, "chosen": "x", "rejected": "y"},
            "line 2 has completion beside chosen or rejected",
        ),
        ({"prompt": "Hi", "chosen": "x"}, "line 2 has no rejected: a pair needs .* prompt, chosen, rejected"),
        ({"prompt": "Hi", "chosen": None, "rejected": "x"}, "line 2 has no chosen"),
        ({"chosen": "x", "rejected": "y"}, "line 2 chosen: there is no prompt, and the text is not a transcript"),
        ({"chosen": [GOOD], "rejected": [BAD]}, "line 2 chosen: there is no prompt: add a column prompt"),
        ({"chosen": [ASK], "rejected": [ASK, BAD]}, "line 2 chosen: the last message is not the assistant's"),
        ({"chosen": [], "rejected": [ASK, BAD]}, "line 2 chosen: the last message is not the assistant's"),
        (
            {"prompt": "Bye", "chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
            "line 2 chosen: the messages before the answer differ from the column prompt",
        ),
        (
            {"prompt": "\n\nHuman: Bye\n\nAssistant:", "chosen": f"{TURNS} x", "rejected": f"{TURNS} y"},
            "line 2 chosen: the messages before the answer differ from the column prompt",
        ),
        (
            {"prompt": [{"role": "human"}], "chosen": "x", "rejected": "y"},
            "line 2 chosen's prompt: message 1 is not of",
        ),
        ({"prompt": "Hi", "chosen": "x", "rejected": "y", "p": "high"}, "line 2: p is 'high', but must be a number"),
        (
            {"prompt": "Hi", "chosen": "x", "rejected": "y", "margin": math.nan},
            "line 2: margin is nan, but must be a number",
        ),
        (
            {"prompt": "Hi", "chosen": "x", "rejected": "y", "margin": True},
            "line 2: margin is True, but must be a number",
        ),
        ({"prompt": "Hi", "chosen": "x", "rejected": "y", "tag": 3}, "line 2: tag is 3, but must be text"),
        (
            {"prompt": "Hi", "chosen": "x", "rejected": "y", "margin": 10**400},
            "line 2: margin is an integer of 401 digits: write a number",
        ),
        (
            {"prompt": [SYSTEM, ASK], "chosen": "x", "rejected": "y", "system": "Be rude."},
            "line 2: the column system differs from the prompt's system message",
        ),
        (
            {"prompt": "Hi", "chosen": [{**GOOD, "tool_calls": [CALL]}], "rejected": [BAD]},
            "line 2 chosen: the answer has tool_calls, but only text can be trained on",
        ),
        (
            {"prompt": "Hi", "chosen": [GOOD], "rejected": json.dumps([{**BAD, "tool_calls": [CALL]}])},
            "line 2 rejected: the answer has tool_calls, but only text can be trained on",
        ),
        (
            {"prompt": "Hi", "chosen": [{**GOOD, "reasoning_content": "hm"}], "rejected": [BAD]},
            "line 2 chosen: the answer has reasoning_content, which would be left out",
        ),
    ],
)
def test_faulty_row_is_named(row: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says):
        load(tmp_path, {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}, row)


def test_digest_follows_content_and_not_the_form_or_place(tmp_path: Path) -> None:
    rows = [{"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}, {"chosen": [ASK, BAD], "rejected": [ASK, GOOD]}]
    before = load(tmp_path, *rows).digest
    other = tmp_path / "other.parquet"
    pq.write_table(
        pa.Table.from_pylist(
            [{"chosen": [ASK, GOOD], "rejected": [ASK, BAD]}, {"chosen": [ASK, BAD], "rejected": [ASK, GOOD]}]
        ),
        other,
    )
    assert load_seed_pairs(str(other), split="train").digest == before
    assert load(tmp_path, *rows[::-1]).digest != before
    assert load(tmp_path, {**rows[0], "p": 0.9}, rows[1]).digest != before
    parted = {"chosen": [ASK, GOOD, ASK, GOOD], "rejected": [ASK, BAD]}
    assert load(tmp_path, *rows, parted).digest != before


def test_transcripts_of_prompts_and_pairs_have_the_same_content(tmp_path: Path) -> None:
    """Else validation recognises no held-out prompt in the pairs, and the policy is trained on what it is tested on."""
    texts = [f"\n\nHuman: Question {number}?\n\nAssistant:" for number in range(3)]
    prompts = tmp_path / "held_out.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    held_out = [prompt.messages for prompt in load_prompts(str(prompts), column="prompt", split="test")]
    whole = [{"chosen": f"{text} Good.", "rejected": f"{text} Bad."} for text in texts]
    beside = [{"prompt": text, "chosen": "Good.", "rejected": "Bad."} for text in texts]
    for rows in (whole, beside):
        keys = [content_key(pair.messages) for pair in load(tmp_path, *rows).pairs]
        assert keys == [content_key(messages) for messages in held_out]
