"""Reading a suite: what is taken, what is refused in one line, and the generated tasks, solved by their own words."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from components.config import RegressionConfig
from components.config.regression import SHIPPED_TASKS
from components.data.messages import Messages
from components.regression.shipped import GENERATORS, NUM_ITEMS, shipped_rows
from components.regression.suite import suite_digest
from components.regression.tasks import Item, load_tasks

ITEM = {"prompt": "Say yes.", "check": {"kind": "exact", "answer": "yes"}}


def written(place: Path, *rows: Any) -> str:
    path = place / "mine.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def load(source: str, **settings: Any) -> dict[str, tuple[Item, ...]]:
    return {task.name: task.items for task in load_tasks(RegressionConfig(tasks=(source,), **settings))}


def test_rows_without_a_task_belong_to_the_files(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    rows = [ITEM | {"id": 7}, ITEM | {"task": "other"}, {"id": "b", "messages": messages, "check": ITEM["check"]}]
    tasks = load(written(tmp_path, *rows))
    assert [item.item_id for item in tasks["mine"]] == ["7", "b"]
    assert tasks["mine"][1].messages == messages
    assert tasks["other"][0].messages == [{"role": "user", "content": "Say yes."}]


def test_items_taken_do_not_depend_on_the_order_of_the_file(tmp_path: Path) -> None:
    rows = [ITEM | {"id": number, "prompt": f"Say yes {number} times."} for number in range(30)]
    taken = {item.item_id for item in load(written(tmp_path, *rows), num_items=10)["mine"]}
    again = {item.item_id for item in load(written(tmp_path, *rows[::-1]), num_items=10)["mine"]}
    assert taken == again
    assert len(taken) == 10
    assert len(load(written(tmp_path, *rows), num_items=0)["mine"]) == 30


def test_digest_of_a_task_changes_with_prompt_and_check(tmp_path: Path) -> None:
    def digest(**changes: Any) -> str:
        source = written(tmp_path, *(ITEM | {"id": number} for number in range(80)), ITEM | {"id": 80} | changes)
        value = suite_digest(RegressionConfig(tasks=(source,)))
        assert value is not None
        return value

    assert digest() == digest()
    assert len({digest(), digest(prompt="Say no."), digest(check={"kind": "exact", "answer": "no"})}) == 3


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ITEM | {"answer": "yes"}, "line 2: unknown key answer: a row has task, id, prompt, messages, check"),
        ({"check": ITEM["check"]}, "line 2: give either prompt, a text, or messages"),
        (ITEM | {"messages": []}, "line 2: give either prompt, a text, or messages"),
        (ITEM | {"prompt": " "}, "line 2: the prompt is empty"),
        (ITEM | {"prompt": 5}, "line 2: prompt is int, but must be text"),
        (ITEM | {"task": 3}, "line 2: task is 3: give a name, or leave it out for 'mine'"),
        (ITEM | {"id": 1.5}, "line 2: id is 1.5"),
        (ITEM | {"id": "a"}, "line 2: the id 'a' of task 'mine' is that of .*line 1"),
        ({"prompt": "Hi"}, "line 2: check is None: give an object with a kind, one of exact, number"),
        ({"prompt": "Hi", "check": {"kind": "guess"}}, "line 2: check is .*guess"),
        ({"prompt": "Hi", "check": {"kind": "number"}}, "line 2: check: answer is missing: add it"),
        ({"prompt": "Hi", "check": {"kind": "number", "answer": "x"}}, "line 2: check: answer = 'x'"),
        ({"prompt": "Hi", "check": {"kind": "exact", "answer": "x", "case": 1}}, "line 2: check: unknown key case"),
        ({"prompt": "Hi", "check": {"kind": "exact", "answer": []}}, "line 2: check: the right answer is missing"),
        ({"prompt": "Hi", "check": {"kind": "regex", "pattern": "("}}, "line 2: check: missing \\)"),
        ({"prompt": "Hi", "check": {"kind": "json_schema", "schema": {"type": "x"}}}, "line 2: check: .*JSON schema"),
        ({"prompt": "Hi", "check": {"kind": "contains"}}, "line 2: check: contains needs texts"),
    ],
)
def test_malformed_rows_are_refused_with_line_and_remedy(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        load(written(tmp_path, ITEM | {"id": "a"}, row))
    assert "\n" not in str(refused.value)


def test_two_sources_of_one_task_are_refused(tmp_path: Path) -> None:
    source = written(tmp_path, ITEM | {"task": "copying"})
    with pytest.raises(ValueError, match="has the task 'copying', which another source has already"):
        load_tasks(RegressionConfig(tasks=("copying", source)))


def test_suites_that_could_pass_nobody_are_refused_before_the_campaign(tmp_path: Path) -> None:
    source = written(tmp_path, *(ITEM | {"id": number} for number in range(79)))
    with pytest.raises(ValueError, match=r"task mine has 79 items.*max_loss = 0.05 takes at least 80"):
        suite_digest(RegressionConfig(tasks=(source,)))
    assert suite_digest(RegressionConfig(tasks=(source,), max_loss=0.1)) is not None


def test_no_tasks_have_no_digest() -> None:
    assert suite_digest(RegressionConfig()) is None


def test_shipped_tasks_are_those_of_the_configuration() -> None:
    assert set(GENERATORS) == set(SHIPPED_TASKS)


def right_answer(messages: Messages) -> str:
    """Answer a shipped item as its text asks, without looking at its check."""
    system, asked = messages[0]["content"], messages[-1]["content"]
    quoted = re.findall(r'"([^"]+)"', system if len(messages) > 1 else asked)
    if len(messages) > 1:
        known = {"name": r"You are (\w+)", "close": r"closes at (\S+)\."}
        told = next((re.findall(pattern, system) for topic, pattern in known.items() if topic in asked), [])
        if told:
            return f"It is {told[0]}."
        if "password" in system:
            return "I will not say that."
        begins, ends = system.startswith("Begin"), system.startswith("End")
        return f"{quoted[0]}: hello." if begins else f"Hello, {quoted[0]}." if ends else quoted[0]
    if "order number" in asked:
        return f"It is {re.findall(r'[0-9]+', asked)[0]}."
    if "code is" in asked:
        code, phrase, wanted = re.findall(r"code is (\w+)\. The phrase is ([\w ]+)\. Repeat the (\w+)", asked)[0]
        return str({"code": code, "phrase": phrase}[wanted])
    if asked.startswith("Repeat"):
        return asked.partition(": ")[2]
    if "JSON" in asked:
        name, age, city = re.findall(r"^(\w+) is (\d+) years old and lives in (\w+)\.", asked)[0]
        return json.dumps({key: {"name": name, "age": int(age), "city": city}[key] for key in quoted})
    words = asked.partition(": ")[2].rstrip(".")
    if asked.startswith("Write each"):
        return words.replace(", ", "\n")
    if asked.startswith("Join"):
        return words.replace(" ", ",")
    if asked.startswith("Write this"):
        return words.upper()
    numbers = [int(number) for number in re.findall(r"\d+", asked)]
    product = "*" in asked or "boxes" in asked
    return str(numbers[0] * numbers[1] if product else numbers[0] + numbers[1] * (-1 if " - " in asked else 1))


@pytest.mark.parametrize("name", SHIPPED_TASKS)
def test_shipped_items_are_solved_by_who_does_what_they_ask_and_by_no_other_answer(name: str) -> None:
    items = load(name)[name]
    assert len(items) == NUM_ITEMS
    answers = [right_answer(item.messages) for item in items]
    assert [item.item_id for item, answer in zip(items, answers, strict=True) if item.check.outcome(answer) != 1] == []
    assert [item.item_id for item in items if item.check.outcome("")] == []
    # A secret is kept by who talks of something else.
    asking = [item for item in items if "password" not in item.messages[0]["content"]]
    others = ["I am happy to help you with that!", "Sure, Berlin is a nice city in Germany."]
    assert [item.item_id for item in asking for answer in others if item.check.outcome(answer)] == []
    # The answer of the next item, which is mostly another one.
    mistaken = [item.check.outcome(answer) for item, answer in zip(items, answers[1:], strict=False) if item in asking]
    assert sum(mistaken) < 0.05 * NUM_ITEMS


def test_shipped_tasks_are_the_same_everywhere() -> None:
    """Results are kept by these digests: other items under an old name would be compared with old results."""
    digests = {task.name: task.digest[:16] for task in load_tasks(RegressionConfig(tasks=SHIPPED_TASKS))}
    assert digests == {
        "arithmetic": "c7aae0f9aa8035f0",
        "copying": "ba72be10e3f4d54d",
        "format": "f6efc7c54dbebb40",
        "system_prompt": "df711fedb06a6264",
    }
    assert len({row["id"] for row in shipped_rows("format")}) == NUM_ITEMS
