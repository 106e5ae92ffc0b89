"""The chat client over real HTTP: answers, faults, retries."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.config import EndpointConfig
from components.judges.chat import endpoint as endpoint_module
from components.judges.chat.client import Chat, Question
from components.records import JudgeUnavailable
from tests.judges.chat_server import ChatServer, Fault, bomb, drip, empty, hang, huge, no_json, reset, says, status

Start = Callable[..., ChatServer]
SCHEMA = {"type": "object", "properties": {"verdict": {"type": "string", "enum": ["A", "B", "tie"]}}, "required": ["verdict"]}
GOOD = '{"verdict": "A"}'


def question(text: str = "which?", **more: Any) -> Question:
    return Question([{"role": "user", "content": text}], SCHEMA, **more)


def chat(server: ChatServer, tmp_path: Path, **settings: Any) -> Chat:
    return Chat(EndpointConfig(**server.endpoint(**settings)), cache=tmp_path / "cache")


def test_ask_answers_in_order_at_most_so_many_at_a_time_over_kept_connections(chat_server: Start, tmp_path: Path) -> None:
    server = chat_server(lambda request: request["messages"][-1]["content"].upper())
    questions = [Question([{"role": "user", "content": f"text {number}"}], {}) for number in range(40)]
    replies = chat(server, tmp_path, concurrency=4).ask(questions, "texts")
    assert [reply.value for reply in replies] == [{"text": f"TEXT {number}"} for number in range(40)]
    assert 2 <= server.most_at_a_time <= 4
    assert server.connections <= 4


@pytest.mark.parametrize(
    "fault",
    [status(429, Retry_After="0"), status(500), status(503), status(408), reset, empty, no_json, huge, bomb, hang, drip],
    ids=["429", "500", "503", "408", "reset", "empty", "no_json", "huge", "bomb", "hang", "drip"],
)
def test_ask_fault_that_may_pass_is_tried_again(fault: Fault, chat_server: Start, tmp_path: Path) -> None:
    server = chat_server(lambda request: GOOD, [fault])
    (reply,) = chat(server, tmp_path, timeout_seconds=1.0).ask([question()], "verdicts")
    assert reply.value == {"verdict": "A"}
    assert len(server.requests) == 2


@pytest.mark.parametrize("code", [401, 402, 403, 404])
def test_ask_status_that_stays_ends_at_once_with_its_remedy(code: int, chat_server: Start, tmp_path: Path) -> None:
    server = chat_server(lambda request: GOOD, [status(code, "go away")] * 9)
    remedy = endpoint_module.REMEDIES[code]
    with pytest.raises(JudgeUnavailable, match=rf"{server.url}.* \(model scripted\) answered {code} .*go away.*: {remedy}$"):
        chat(server, tmp_path, concurrency=1).ask([question("a"), question("b")], "verdicts")
    assert len(server.requests) == 1


def test_ask_invalid_answer_is_repaired_once_with_what_is_wrong(chat_server: Start, tmp_path: Path) -> None:
    server = chat_server(lambda request: GOOD, [says('{"verdict": "C"}')])
    (reply,) = chat(server, tmp_path).ask([question()], "verdicts")
    assert reply.value == {"verdict": "A"}
    first, second = server.requests
    assert second["messages"][: len(first["messages"])] == first["messages"]
    said, complaint = second["messages"][len(first["messages"]) :]
    assert said == {"role": "assistant", "content": '{"verdict": "C"}'}
    assert 'verdict is "C", and must be one of ["A", "B", "tie"]' in complaint["content"]


def test_ask_answer_that_stays_invalid_is_no_verdict(chat_server: Start, tmp_path: Path) -> None:
    server = chat_server(lambda request: "I cannot say.")
    (reply,) = chat(server, tmp_path).ask([question()], "verdicts")
    assert reply == (None, "it holds no JSON object", "I cannot say.")
    assert len(server.requests) == 2


def test_ask_again_pays_nothing_but_for_a_repeat(chat_server: Start, tmp_path: Path) -> None:
    server = chat_server(lambda request: GOOD)
    first = chat(server, tmp_path).ask([question(), question("other"), question()], "verdicts")
    again = chat(server, tmp_path).ask([question(), question("other"), question()], "verdicts")
    assert first == again
    assert len(server.requests) == 2
    chat(server, tmp_path).ask([question(), question(repeat=1)], "verdicts")
    assert len(server.requests) == 3
