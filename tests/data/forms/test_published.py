"""Rows as they are published give the pairs that were worked out by hand, and malformed ones are named."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.data.forms.form import Reading
from components.data.forms.rated import Choice
from components.data.forms.registry import form_of, wanted_columns
from components.data.preference_file import load_seed_pairs
from components.data.rows import Row, Rows, read_rows
from components.data.seed_pair import SeedPair

ASK = [{"role": "user", "content": "c#"}]
CITY = [{"role": "user", "content": "How cold is San Francisco today?"}]


def read(tmp_path: Path, *rows: dict[str, Any], choice: Choice = "best_worst") -> tuple[str, Reading]:
    """Return the name of the form that rows are taken for, and what it reads."""
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    source = read_rows(str(path), split="train", columns=None)
    form = form_of(source)
    assert form is not None
    return form.name, form.read(source, choice)


def rating(value: str) -> dict[str, Any]:
    return {"Rating": value, "Rationale": "Because."}


def completion(text: str, fine: Any, overall: float, **more: Any) -> dict[str, Any]:
    scores = {} if fine is None else {"fine-grained_score": fine}
    return {"response": text, "model": "bard", "principle": "honesty", "overall_score": overall, **scores, **more}


FOUR = [
    completion("four", 3.0, 9.0),
    completion("best", 4.75, 7.0),
    completion("worst", 1.5, 10.0),
    completion("unrated", "N/A", 10.0),
]
MEAN = {"helpfulness": rating("5"), "honesty": rating("N/A"), "truthfulness": rating("2"), "instruction_following": {}}


@pytest.mark.parametrize(
    ("completions", "expected"),
    [
        # 4.75 - 1.5; the scores of 10 are the published mistake, and would turn the pair round.
        (FOUR, [("best", "worst", 3.25)]),
        # Without the mean of the aspects it is made of them: (5 + 2) / 2 - 3.
        ([completion("a", None, 1.0, annotations=MEAN), completion("b", 3.0, 10.0)], [("a", "b", 0.5)]),
        # Only overall scores are there.
        ([completion("a", None, 6.5), completion("b", None, 8.0)], [("b", "a", 1.5)]),
        ([completion("a", 2.0, 1.0), completion("b", "2", 9.0)], [("a", "b", 0.0)]),
        ([completion("a", 2.0, 1.0), completion("b", "N/A", 9.0)], []),
    ],
)
def test_ultrafeedback_pairs_the_best_with_the_worst_by_the_mean_of_the_aspects(
    completions: list[dict[str, Any]], expected: list[tuple[str, str, float]], tmp_path: Path
) -> None:
    row = {"source": "flan", "instruction": "c#", "models": ["bard"], "completions": completions}
    form, reading = read(tmp_path, row)
    assert form == "ultrafeedback"
    assert reading.pairs == [
        SeedPair(ASK, good, bad, None if margin else 0.5, margin, None) for good, bad, margin in expected
    ]
    assert reading.left_out == ({} if expected else {"fewer than two completions with a rating": 1})


def test_ultrafeedback_pairs_every_two_if_asked(tmp_path: Path) -> None:
    _, reading = read(tmp_path, {"instruction": "c#", "completions": FOUR}, choice="all_pairs")
    assert [(pair.chosen, pair.rejected, pair.margin) for pair in reading.pairs] == [
        ("best", "four", 1.75),
        ("four", "worst", 1.5),
        ("best", "worst", 3.25),
    ]


def test_helpsteer2_pairs_rows_of_one_prompt_by_helpfulness(tmp_path: Path) -> None:
    turns = "Hi\n\n<extra_id_1>Assistant\nHello.\n\n<extra_id_1>User\nc#"
    ratings = {"correctness": 4, "coherence": 4, "complexity": 2, "verbosity": 1}
    rows = [
        {"prompt": "c#", "response": "C# is a language.", "helpfulness": 1, **ratings},
        {"prompt": "c#", "response": "C# is Microsoft's language.", "helpfulness": 4, **ratings},
        {"prompt": "alone", "response": "x", "helpfulness": 1, **ratings},
        {"prompt": turns, "response": "a", "helpfulness": 3, **ratings},
        {"prompt": turns, "response": "b", "helpfulness": 3, **ratings},
    ]
    form, reading = read(tmp_path, *rows)
    dialogue = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}, *ASK]
    assert form == "helpsteer2"
    assert reading.pairs == [
        SeedPair(ASK, "C# is Microsoft's language.", "C# is a language.", None, 3.0, None),
        SeedPair(dialogue, "a", "b", 0.5, 0.0, None),
    ]
    assert reading.left_out == {"a prompt with one response": 1}


@pytest.mark.parametrize(
    ("preference", "expected"),
    [(-3, ("first", "second", None, 3.0)), (1, ("second", "first", None, 1.0)), (0, ("first", "second", 0.5, 0.0))],
)
def test_helpsteer3_below_zero_prefers_the_first_response(
    preference: int, expected: tuple[str, str, float | None, float], tmp_path: Path
) -> None:
    row = {
        "domain": "code",
        "language": "c#",
        "context": ASK,
        "response1": "first",
        "response2": "second",
        "overall_preference": preference,
        "individual_preference": [{"score": -2, "reasoning": "Shorter.", "feedback1": None, "feedback2": None}],
    }
    form, reading = read(tmp_path, row, {**row, "overall_preference": None})
    assert form == "helpsteer3"
    assert reading.pairs == [SeedPair(ASK, *expected, "code")]
    assert reading.left_out == {"no overall_preference": 1}


def test_helpsteer2_preferences_have_the_same_scale(tmp_path: Path) -> None:
    row = {"prompt": "c#", "response_1": "first", "response_2": "second", "preference_strength": 2, "split": "train"}
    form, reading = read(tmp_path, row)
    assert form == "helpsteer2-preference"
    assert reading.pairs == [SeedPair(ASK, "second", "first", None, 2.0, None)]


def test_openai_row_with_tools_is_read_with_its_calls(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "weather"}}]
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "SF"}'}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        *CITY,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "12 C"},
    ]
    row = {
        "input": {"messages": messages, "tools": tools, "parallel_tool_calls": True},
        "preferred_output": [{"role": "assistant", "content": "12 degrees."}],
        "non_preferred_output": [{"role": "assistant", "content": "Not too cold."}],
    }
    form, reading = read(tmp_path, row)
    assert form == "openai"
    expected = [
        {"role": "system", "content": "Be brief.", "tools": tools},
        *CITY,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{**call, "function": {"name": "weather", "arguments": {"city": "SF"}}}],
        },
        {"role": "tool", "content": "12 C", "tool_call_id": "call_1"},
    ]
    assert reading.pairs == [SeedPair(expected, "12 degrees.", "Not too cold.", None, None, None)]


def test_sharegpt_row_with_a_call_is_read_with_system_and_tools(tmp_path: Path) -> None:
    turns = [
        {"from": "human", "value": "Weather?"},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Jinan"}}'},
        {"from": "observation", "value": '{"temperature": 20}'},
    ]
    row = {
        "conversations": turns,
        "chosen": {"from": "gpt", "value": "20 degrees."},
        "rejected": {"from": "gpt", "value": "Cold."},
        "system": "Be brief.",
        "tools": '[{"name": "weather"}]',
    }
    form, reading = read(tmp_path, row)
    assert form == "sharegpt"
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Jinan"}}}
    messages = [
        {"role": "system", "content": "Be brief.", "tools": [{"name": "weather"}]},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": '{"temperature": 20}'},
    ]
    assert reading.pairs == [SeedPair(messages, "20 degrees.", "Cold.", None, None, None)]


def test_sharegpt_conversation_with_a_label_is_a_single_response(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "c#"}, {"from": "gpt", "value": "A language."}]
    _, reading = read(tmp_path, {"conversations": turns, "label": False})
    assert reading.pairs == [SeedPair(ASK, None, "A language.", None, None, None)]


def annotation(selected: str, *, cancelled: bool = False, kind: str = "pairwise") -> dict[str, Any]:
    result = {"id": "x", "type": kind, "from_name": "pw", "to_name": "text2,text1", "value": {"selected": selected}}
    return {"id": 7, "completed_by": 1, "was_cancelled": cancelled, "ground_truth": False, "result": [result]}


def verdict(choice: str, *, name: str = "verdict") -> dict[str, Any]:
    result = {"type": "choices", "from_name": name, "to_name": "text2", "value": {"choices": [choice]}}
    return {"id": 8, "completed_by": 2, "was_cancelled": False, "result": [result]}


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        # The left side is text2, as to_name says.
        ([annotation("left")], ("two", "one", None, None)),
        ([annotation("right")], ("one", "two", None, None)),
        ([annotation("right"), annotation("right"), annotation("left")], ("one", "two", 2 / 3, None)),
        ([annotation("right"), annotation("left", cancelled=True)], ("one", "two", None, None)),
        ([annotation("right"), annotation("left")], ("two", "one", 0.5, 0.0)),
        ([annotation("left"), verdict("tie")], ("two", "one", 0.75, None)),
        ([annotation("left"), verdict("both_bad")], ("two", "one", 0.75, None)),
        # Somebody's own control says nothing of the comparison.
        ([annotation("left"), verdict("tie", name="tone")], ("two", "one", None, None)),
    ],
)
def test_label_studio_annotators_vote(
    annotations: list[dict[str, Any]], expected: tuple[Any, ...], tmp_path: Path
) -> None:
    task = {"id": 1, "data": {"prompt": "c#", "text1": "one", "text2": "two"}, "predictions": [], "project": 3}
    form, reading = read(tmp_path, {**task, "annotations": annotations}, {**task, "annotations": []})
    assert form == "label-studio"
    ((chosen, rejected, p, margin),) = [(pair.chosen, pair.rejected, pair.p, pair.margin) for pair in reading.pairs]
    assert (chosen, rejected, margin) == (expected[0], expected[1], expected[3])
    assert p == pytest.approx(expected[2]) if expected[2] else p is None
    assert reading.left_out == {"no annotation that selects a side": 1}


FIELDS = {"instruction": "c#", "response1": "one", "response2": "two"}
RANKED = [{"value": "response2", "rank": 1}, {"value": "response1", "rank": 2}]


@pytest.mark.parametrize(
    ("responses", "expected"),
    [
        ({"preference": [{"value": ["response2", "response1"], "user_id": "a"}]}, ("two", "one", None)),
        ({"preference": [{"value": RANKED, "user_id": "a"}]}, ("two", "one", None)),
        ({"better": [{"value": "response1", "user_id": "a"}]}, ("one", "two", None)),
        (
            {
                "response1-rating": [{"value": 2, "user_id": "a"}, {"value": 4, "user_id": "b"}],
                "response2-rating": [{"value": 5, "user_id": "a"}, {"value": 3, "user_id": "b"}],
            },
            ("one", "two", 0.5),
        ),
        (
            {
                "better": [
                    {"value": "response1", "user_id": "a", "status": "submitted"},
                    {"value": "response2", "user_id": "b", "status": "draft"},
                    {"value": "response2", "user_id": "c", "status": "discarded"},
                ]
            },
            ("one", "two", None),
        ),
        (
            {"better": [{"value": value, "user_id": value} for value in ("response1", "tie", "both_bad")]},
            ("one", "two", 2 / 3),
        ),
        (
            {
                "better": [{"value": f"response{number}", "user_id": str(number)} for number in (1, 1, 1, 2)],
                "comment": [{"value": "Fine.", "user_id": "a"}],
            },
            ("one", "two", 0.75),
        ),
    ],
)
def test_argilla_annotators_vote_by_ranking_choice_or_ratings(
    responses: dict[str, Any], expected: tuple[str, str, float | None], tmp_path: Path
) -> None:
    record = {"id": "1", "fields": FIELDS, "metadata": {"tag": "code"}, "suggestions": {}, "vectors": {}}
    suggested = {"better": {"value": "response2", "score": 0.9, "agent": "gpt"}}
    form, reading = read(
        tmp_path, {**record, "responses": responses}, {**record, "suggestions": suggested, "responses": {}}
    )
    assert form == "argilla"
    (pair,) = reading.pairs
    assert (pair.messages, pair.chosen, pair.rejected, pair.p, pair.tag) == (ASK, *expected, "code")
    assert reading.left_out == {"no submitted response that compares two answers": 1}


def test_csv_with_text_numbers_and_labels_is_read_as_such(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(
        "\ufeffprompt;chosen;rejected;completion;label;p;margin;tag;system\n"
        '"c#";"a; ""b""\nc";42;;;0.75;2;007;\n'
        "c#;;;A language.;True;;;;Be kind.\n"
    )
    assert load_seed_pairs(str(path), split="train").pairs == [
        SeedPair(ASK, 'a; "b"\nc', "42", 0.75, 2.0, "007"),
        SeedPair([{"role": "system", "content": "Be kind."}, *ASK], "A language.", None, None, None, None),
    ]


def test_answers_chosen_already_go_before_ratings_beside_them(tmp_path: Path) -> None:
    row = {"prompt": "c#", "chosen": "a", "rejected": "b", "instruction": "x", "completions": FOUR, "conversations": []}
    form, reading = read(tmp_path, row)
    assert form == "trl-text"
    assert reading.pairs == [SeedPair(ASK, "a", "b", None, None, None)]


def test_ratings_beside_pairs_are_not_even_read() -> None:
    """They may be most of a Parquet file, and would take its memory."""
    carried = ["id", "completions", "conversations", "metadata"]
    assert not set(wanted_columns(["prompt", "chosen", "rejected", *carried])) & set(carried)
    assert not set(wanted_columns(["chosen", "rejected", "completions"])) & {"completions"}
    assert set(carried) <= set(wanted_columns(["chosen", "rejected", *carried]))


UF = {"instruction": "c#", "completions": FOUR}
HS2 = {"prompt": "c#", "response": "a", "helpfulness": 1}
HS3 = {"context": ASK, "response1": "a", "response2": "b", "overall_preference": 1}
OPENAI = {"input": {"messages": CITY}, "preferred_output": [], "non_preferred_output": []}
GOOD = [{"role": "assistant", "content": "x"}]
GPT = {"from": "gpt", "value": "x"}
HUMAN = [{"from": "human", "value": "c#"}]
TASK = {"data": {"prompt": "c#", "answer1": "a", "answer2": "b"}, "annotations": [annotation("left")]}
RECORD = {"fields": FIELDS, "responses": {"better": [{"value": "response1"}]}}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (UF | {"instruction": None}, "instruction is missing, but must be text"),
        (UF | {"completions": "x"}, "completions is text, but not valid JSON"),
        (UF | {"completions": ["x"]}, "completions must be a list of objects"),
        (UF | {"completions": [{"response": 1}]}, "a completion's response is of type int, but must be text"),
        (UF | {"completions": [completion("a", "high", 1.0)]}, "fine-grained_score is 'high', but must be a number or"),
        (HS2 | {"helpfulness": 5}, "helpfulness is 5, but must be a whole number from 0 to 4"),
        (HS2 | {"helpfulness": "x"}, "helpfulness is 'x', but must be a number"),
        (HS2 | {"response": None}, "response is missing, but must be text"),
        (HS3 | {"overall_preference": 1.5}, "overall_preference is 1.5, but must be a whole number from -3 to 3"),
        (HS3 | {"context": "c#"}, "context is text, but not valid JSON"),
        (HS3 | {"context": GOOD}, "context: the prompt ends with a message of the assistant"),
        (HS3 | {"domain": 3}, "domain is of type int, but must be text"),
        (OPENAI, "preferred_output must be a list with one message of the assistant"),
        (OPENAI | {"input": "x"}, "input is text, but not valid JSON"),
        (OPENAI | {"input": {}}, "input must be an object such as"),
        (
            OPENAI | {"preferred_output": GOOD, "non_preferred_output": CITY},
            "non_preferred_output: the last message is not the assistant's",
        ),
        (
            OPENAI | {"preferred_output": GOOD, "non_preferred_output": [{**GOOD[0], "tool_calls": [{"id": "x"}]}]},
            "non_preferred_output: message 1 has a tool call that is not of the form",
        ),
        (
            OPENAI | {"preferred_output": [*GOOD, *GOOD], "non_preferred_output": GOOD},
            "preferred_output: the messages before the answer differ",
        ),
        (
            OPENAI | {"input": {"messages": CITY, "tools": {}}, "preferred_output": GOOD, "non_preferred_output": []},
            "non_preferred_output must be a list",
        ),
        (
            OPENAI
            | {"input": {"messages": CITY, "tools": "x"}, "preferred_output": GOOD, "non_preferred_output": GOOD},
            "input.tools must be a list of tool definitions",
        ),
        ({"conversations": HUMAN}, "a conversation alone says nothing about what is preferred"),
        ({"conversations": HUMAN, "chosen": GPT}, "has no rejected: a pair needs"),
        ({"conversations": [], "label": True}, "conversations must be a list of messages"),
        ({"conversations": [*HUMAN, GPT], "label": "yes"}, "label is 'yes': write true"),
        (
            {"conversations": [{"from": "narrator", "value": "x"}], "chosen": GPT, "rejected": GPT},
            "message 1 has role 'narrator': use one of",
        ),
        (
            {"conversations": [*HUMAN, {"from": "function_call", "value": "{x"}], "chosen": GPT, "rejected": GPT},
            "message 2 has a function_call that is not JSON",
        ),
        (TASK | {"annotations": [verdict("same")]}, r"verdict is \['same'\], but must be tie or both_bad"),
        (TASK | {"annotations": [annotation("middle")]}, "selected is 'middle', but must be left or right"),
        (TASK | {"annotations": [annotation("left"), 3]}, "an annotation is int, but must be an object"),
        (TASK | {"data": {"answer1": "a", "answer2": "b"}}, "data has no prompt .*: name it prompt"),
        (TASK | {"data": {"prompt": "c#", "a": "a", "b": "b"}}, "data has neither the keys 'text2,text1'"),
        (TASK | {"data": "c#"}, "data is text, but not valid JSON"),
        (TASK | {"annotations": {}}, "a task needs the object data and the list annotations"),
        (RECORD | {"fields": "x"}, "fields is text, but not valid JSON"),
        (RECORD | {"fields": []}, "a record needs the objects fields and responses"),
        (RECORD | {"fields": {"response1": "a"}}, "fields have no prompt .*: name one prompt"),
        (RECORD | {"responses": {"better": "x"}}, "responses.better must be a list of objects"),
        (
            RECORD | {"responses": {"rank": [{"value": ["response1", "other"]}]}},
            "responses.rank ranks 'other', which is not a field",
        ),
        (
            RECORD | {"responses": {name: [{"value": ["response1"]}] for name in ("x", "y")}},
            "the questions x, y all compare the answers: keep one of them",
        ),
        ({"prompt": "c#", "text": "x"}, "rows.json item 1 has no chosen: a pair needs"),
    ],
)
def test_malformed_row_is_named_in_one_line(row: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([row, row]))
    with pytest.raises(ValueError, match=says) as caught:
        load_seed_pairs(str(path), split="train")
    assert str(caught.value).startswith(f"{path} item 1")
    assert "\n" not in str(caught.value)


def test_rows_without_pairs_are_counted_and_change_the_digest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([UF, UF | {"completions": FOUR[:1]}]))
    loaded = load_seed_pairs(str(path), split="train")
    assert loaded.left_out == {"fewer than two completions with a rating": 1}
    assert loaded.num_rows == 2
    assert "1 rows give no pair: fewer than two completions with a rating" in caplog.text
    path.write_text(json.dumps([UF]))
    assert load_seed_pairs(str(path), split="train").digest != loaded.digest
    path.write_text(json.dumps([UF | {"completions": FOUR[:1]}]))
    with pytest.raises(
        ValueError, match=r"has no pair of answers.*1 rows \(1 x fewer than two completions with a rating"
    ):
        load_seed_pairs(str(path), split="train")


def test_other_columns_of_a_published_form_are_carried_if_asked(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([UF | {"source": "flan"}]))
    (pair,) = load_seed_pairs(str(path), split="train", carries_columns=True).pairs
    assert pair.columns == {"source": "flan"}


def test_form_of_unknown_columns_is_none() -> None:
    assert form_of(Rows("x", ("prompt", "text"), [Row("x", {"prompt": "a", "text": "b"})])) is None
