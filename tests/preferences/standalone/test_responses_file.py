"""Reading a user's own responses, and responses that were judged before."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.data.prompts import prompt_id
from components.judges.protocol import Group, Opinion, conclude_pair, make_verdict
from components.preferences.standalone.kept import read_judged, write_groups
from components.preferences.standalone.responses_file import read_responses
from components.preferences.tables import write_verdicts

ASK, SYSTEM = {"role": "user", "content": "Hi"}, {"role": "system", "content": "Be kind."}


def load(tmp_path: Path, *rows: dict[str, Any]) -> list[Group]:
    path = tmp_path / "responses.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_responses(str(path), split="train")


def test_responses_of_every_form_are_the_same_group(tmp_path: Path) -> None:
    several = load(tmp_path, {"prompt": "Hi", "responses": ["a", "", "a"]})
    assert several == [Group(prompt_id([ASK]), [ASK], ((0, "a"), (1, ""), (2, "a")))]
    assert (
        load(tmp_path, {"prompt": [ASK], "responses": ["a", ""], "id": 7}, {"prompt": "Hi", "response": "a"}) == several
    )
    for prompt in ("\n\nHuman: Hi\n\nAssistant:", json.dumps([ASK])):
        assert load(tmp_path, {"prompt": prompt, "responses": ["a", "", "a"]}) == several
    one_a_row = [{"prompt": "Hi", "response": text} for text in ("a", "", "a")]
    other = {"prompt": [SYSTEM, ASK], "response": "x"}
    with_system = [*several, Group(prompt_id([SYSTEM, ASK]), [SYSTEM, ASK], ((0, "x"),))]
    assert load(tmp_path, one_a_row[0], other, *one_a_row[1:]) == with_system
    other = {"prompt": "Hi", "system": "Be kind.", "response": "x"}
    assert load(tmp_path, one_a_row[0], other, *one_a_row[1:]) == with_system


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"responses": ["a", "b"]}, "line 2 has no prompt: add a column prompt .*responses"),
        ({"prompt": " ", "responses": ["a", "b"]}, "line 2: the prompt is empty"),
        (
            {"prompt": [ASK, {"role": "assistant", "content": "a"}], "response": "b"},
            "line 2: the prompt ends with a message",
        ),
        ({"prompt": "Hi", "answer": "a"}, "line 2 has no responses: write either responses"),
        ({"prompt": "Hi", "response": "a", "responses": ["b"]}, "line 2 has both responses and response: write"),
        ({"prompt": "Hi", "responses": "a"}, "line 2: responses must be a list of texts"),
        ({"prompt": "Hi", "responses": ["a", None]}, "line 2: responses must be a list of texts"),
        ({"prompt": "Hi", "response": ["a"]}, "line 2: response must be one text"),
    ],
)
def test_faulty_row_is_named(row: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says):
        load(tmp_path, {"prompt": "Hi", "responses": ["a", "b"]}, row)


def test_prompts_with_one_response_each_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no prompt with two or more responses"):
        load(tmp_path, {"prompt": "Hi", "response": "a"}, {"prompt": "Ho", "response": "a"})


def test_kept_verdicts_are_read_as_they_were_written_from_either_place(tmp_path: Path) -> None:
    groups = [Group(prompt_id([ASK]), [ASK], ((0, "a"), (1, "b"))), Group(prompt_id([SYSTEM, ASK]), [SYSTEM, ASK], ())]
    verdicts = conclude_pair("j", groups[0], 0, 1, forward=Opinion(0.9), backward=Opinion(None, "no JSON"))
    verdicts.append(make_verdict("j", groups[0], 0, Opinion(1.5, "fine")))
    one, of_a_round = tmp_path / "one", tmp_path / "round-001"
    for responses, judged in ((one, one), (of_a_round / "generate_responses", of_a_round / "collect_preferences")):
        for directory in (responses, judged):
            directory.mkdir(parents=True, exist_ok=True)
        write_groups(responses, groups)
        write_verdicts(judged, verdicts)
    for directory in (one, of_a_round):
        judged = read_judged(directory)
        assert (judged.groups, judged.verdicts, judged.judge) == (groups, verdicts, "j")


def test_kept_verdicts_that_are_not_there_or_damaged_are_told(tmp_path: Path) -> None:
    groups = [Group("p", [ASK], ((0, "a"),))]
    with pytest.raises(
        ValueError, match=r"has no verdicts \(prompts.parquet, responses.parquet, verdicts.parquet missing\)"
    ):
        read_judged(tmp_path)
    write_groups(tmp_path, groups)
    write_verdicts(tmp_path, [])
    with pytest.raises(ValueError, match="its pairs came from a data set"):
        read_judged(tmp_path)
    (tmp_path / "verdicts.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(ValueError, match=r"verdicts.parquet cannot be read as Parquet"):
        read_judged(tmp_path)


def test_prompts_with_and_without_the_system_prompt_are_one_group(tmp_path: Path) -> None:
    path = tmp_path / "responses.jsonl"
    rows = [{"prompt": "Hi", "response": "a"}, {"prompt": [SYSTEM, ASK], "response": "b"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (group,) = read_responses(str(path), split="train", system_prompt="Be kind.")
    assert group == Group(prompt_id([SYSTEM, ASK]), [SYSTEM, ASK], ((0, "a"), (1, "b")))
