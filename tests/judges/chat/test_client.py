"""The chat client over real HTTP: answers, faults, retries."""

import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from components.config import EndpointConfig
from components.judges.chat import asking as retries
from components.judges.chat import endpoint as endpoint_module
from components.judges.chat.asking import FAILURES_IN_A_ROW
from components.judges.chat.client import Chat, Question
from components.judges.chat.credentials import check_endpoint
from components.judges.chat.limits import RateLimits
from components.records import JudgeUnavailable, RoundStopped
from components.runtime import progress
from components.runtime.ports import free_port
from tests.judges.chat_server import ChatServer, Fault, bomb, drip, empty, hang, huge, no_json, reset, says, status

Start = Callable[..., ChatServer]
SCHEMA = {
    "type": "object",
    "properties": {"verdict": {"type": "string", "enum": ["A", "B", "tie"]}},
    "required": ["verdict"],
}
GOOD = '{"verdict": "A"}'


def question(text: str = "which?", **more: Any) -> Question:
    return Question([{"role": "user", "content": text}], SCHEMA, **more)


def chat(server: ChatServer, tmp_path: Path, **settings: Any) -> Chat:
    return Chat(EndpointConfig(**server.endpoint(**settings)), cache=tmp_path / "cache")


def test_ask_answers_in_order_so_many_at_a_time_over_kept_connections(chat_server: Start, tmp_path: Path) -> None:
    together = threading.Barrier(4, timeout=20)

    def script(request: dict[str, Any]) -> str:
        together.wait()
        return request["messages"][-1]["content"].upper()

    server = chat_server(script)
    questions = [Question([{"role": "user", "content": f"text {number}"}], {}) for number in range(20)]
    replies = chat(server, tmp_path, concurrency=4).ask(questions, "texts")
    assert [reply.value for reply in replies] == [{"text": f"TEXT {number}"} for number in range(20)]
    assert server.most_at_a_time == server.connections == 4


@pytest.mark.parametrize(
    "fault",
    [
        status(429, Retry_After="0"),
        status(500),
        status(503),
        status(408),
        reset,
        empty,
        no_json,
        huge,
        bomb,
        hang,
        drip,
    ],
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
    with pytest.raises(
        JudgeUnavailable, match=rf"{server.url}.* \(model scripted\) answered {code} .*go away.*: {remedy}$"
    ):
        chat(server, tmp_path, concurrency=1).ask([question("a"), question("b")], "verdicts")
    assert len(server.requests) == 1


def test_ask_invalid_answer_is_repaired_once_with_what_is_wrong(chat_server: Start, tmp_path: Path) -> None:
    server = chat_server(lambda request: GOOD, [says('{"verdict": "C"}')])
    (reply,) = chat(server, tmp_path).ask([question()], "verdicts")
    assert reply.value == {"verdict": "A"}
    first, second = server.requests
    assert second["messages"][: len(first["messages"])] == first["messages"]
    answer, complaint = second["messages"][len(first["messages"]) :]
    assert answer == {"role": "assistant", "content": '{"verdict": "C"}'}
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


@pytest.mark.parametrize("code", [400, 413, 422])
def test_ask_question_that_is_refused_has_no_verdict_and_the_others_have(
    code: int, chat_server: Start, tmp_path: Path
) -> None:
    server = chat_server(lambda request: GOOD, [status(code, "the context is too long")])
    refused, answered = chat(server, tmp_path, concurrency=1).ask([question("long"), question("short")], "verdicts")
    assert refused.value is None
    assert refused.detail == f'the endpoint answered {code} ({{"error": {{"message": "the context is too long"}}}})'
    assert answered.value == {"verdict": "A"}
    assert len(server.requests) == 2


def test_ask_failures_in_a_row_end_it_and_what_was_answered_is_kept(chat_server: Start, tmp_path: Path) -> None:
    questions = [question(str(number)) for number in range(10)]
    server = chat_server(lambda request: GOOD, [None, *[status(503, "overloaded")] * 2 * FAILURES_IN_A_ROW])
    with pytest.raises(
        JudgeUnavailable, match=r"failed 3 questions in a row; last failure: the endpoint answered 503 \(.*overloaded"
    ):
        chat(server, tmp_path, concurrency=1, max_attempts=2).ask(questions, "verdicts")
    assert len(server.requests) == 1 + 2 * FAILURES_IN_A_ROW
    assert all(reply.value for reply in chat(server, tmp_path, concurrency=1).ask(questions, "verdicts"))
    assert len(server.requests) == 1 + 2 * FAILURES_IN_A_ROW + 9


def test_ask_endpoint_that_knows_no_such_form_says_which_setting_it_is(chat_server: Start, tmp_path: Path) -> None:
    server = chat_server(lambda request: GOOD, [status(400, "response_format.type json_schema is not supported")] * 9)
    with pytest.raises(JudgeUnavailable, match=r"answered 400 .*: set endpoint.output to json_object or text$"):
        chat(server, tmp_path, concurrency=1).ask([question(str(number)) for number in range(5)], "verdicts")


def test_ask_failures_with_answers_between_them_end_nothing(chat_server: Start, tmp_path: Path) -> None:
    faults = [status(500), None] * 2 * FAILURES_IN_A_ROW
    replies = chat(chat_server(lambda request: GOOD, faults), tmp_path, concurrency=1, max_attempts=1).ask(
        [question(str(number)) for number in range(len(faults))], "verdicts"
    )
    assert [reply.value is None for reply in replies] == [True, False] * 2 * FAILURES_IN_A_ROW


def test_ask_endpoint_that_is_not_there_is_named(tmp_path: Path) -> None:
    nowhere = EndpointConfig(url=f"http://127.0.0.1:{free_port()}/v1", model="m", max_attempts=1)
    with pytest.raises(
        JudgeUnavailable,
        match=rf"judge m at {nowhere.url} failed 3 questions in a row; last failure: the endpoint cannot be reached",
    ):
        Chat(nowhere, cache=tmp_path).ask([question(str(number)) for number in range(5)], "verdicts")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("2.5", 2.5),
        (formatdate(1_000_000_030, usegmt=True), 30.0),
        ("99999", retries.LONGEST_WAIT_SECONDS),
        ("soon", None),
        ("-5", None),
    ],
)
def test_ask_waits_as_long_as_retry_after_says(
    header: str, seconds: float | None, chat_server: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    async def sleep(wait: float) -> None:
        waited.append(wait)

    monkeypatch.setattr(retries, "sleep", sleep)
    monkeypatch.setattr(RateLimits, "pause", lambda self, wait: waited.append(wait))
    monkeypatch.setattr(endpoint_module.time, "time", lambda: 1_000_000_000.0)
    server = chat_server(lambda request: GOOD, [status(429, Retry_After=header)])
    assert chat(server, tmp_path).ask([question()], "verdicts")[0].value
    pause, wait = waited
    assert pause == (seconds or 0)
    assert wait == pause if seconds is not None else 0 < wait < 0.1


@pytest.mark.parametrize("header", ["0", "0.0", formatdate(999_999_000, usegmt=True)], ids=["0", "0.0", "past"])
def test_ask_retry_after_no_time_is_no_leave_to_hurry(
    header: str, chat_server: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    pauses: list[float] = []

    async def sleep(wait: float) -> None:
        waited.append(wait)

    monkeypatch.setattr(retries, "sleep", sleep)
    monkeypatch.setattr(RateLimits, "pause", lambda self, wait: pauses.append(wait))
    monkeypatch.setattr(retries, "FIRST_WAIT_SECONDS", 1.0)
    server = chat_server(lambda request: GOOD, [status(429, Retry_After=header)] * 49)
    assert chat(server, tmp_path, max_attempts=50).ask([question()], "verdicts")[0].value
    assert len(server.requests) == 50
    assert pauses == [1.0] * 49
    assert sum(waited) > 40 * 60


def test_ask_attempts_wait_longer_each_time(
    chat_server: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    async def sleep(wait: float) -> None:
        waited.append(wait)

    monkeypatch.setattr(retries, "sleep", sleep)
    monkeypatch.setattr(retries, "FIRST_WAIT_SECONDS", 1.0)
    chat(chat_server(lambda request: GOOD, [status(500)] * 9), tmp_path, max_attempts=10).ask([question()], "verdicts")
    bounds = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    assert all(bound <= wait <= bound + 1 for bound, wait in zip(bounds, waited, strict=True)), waited
    assert len({round(wait % 1, 6) for wait in waited}) > 1


class Stopper:
    """Stop the round at the first call, and record the calling thread."""

    def __init__(self) -> None:
        self.threads: set[int] = set()

    def advanced(self, done: int, total: int, text: str) -> None:
        self.threads.add(threading.get_ident())
        raise RoundStopped("enough")

    def began(self, round: str, stage: str) -> None: ...

    def ended(self, round: str, stage: str, seconds: float, *, already_done: bool) -> None: ...


def test_ask_is_stopped_by_a_listener_while_the_endpoint_hangs(chat_server: Start, tmp_path: Path) -> None:
    server, stopper = chat_server(lambda request: GOOD, [hang] * 9), Stopper()
    began = time.monotonic()
    with progress.reporting_to(stopper), pytest.raises(RoundStopped, match="enough"):
        chat(server, tmp_path, timeout_seconds=60).ask([question(str(number)) for number in range(9)], "verdicts")
    assert time.monotonic() - began < 5
    assert stopper.threads == {threading.get_ident()}
    assert not [thread for thread in threading.enumerate() if thread.name == "chat"]


def test_ask_of_nothing_asks_nobody(chat_server: Start, tmp_path: Path) -> None:
    assert chat(server := chat_server(), tmp_path).ask([], "verdicts") == []
    assert not server.requests


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("text", None),
        ("json_object", {"type": "json_object"}),
        (
            "json_schema",
            {
                "type": "json_schema",
                "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA | {"additionalProperties": False}},
            },
        ),
    ],
)
def test_ask_holds_the_endpoint_to_the_form_as_configured(
    output: str, expected: Any, chat_server: Start, tmp_path: Path
) -> None:
    server = chat_server(lambda request: GOOD)
    chat(server, tmp_path, output=output, max_tokens=77).ask([question()], "verdicts")
    (request,) = server.requests
    assert request.get("response_format") == expected
    assert (request["model"], request["temperature"], request["max_tokens"]) == ("scripted", 0, 77)
    assert '"enum": ["A", "B", "tie"]' in request["messages"][-1]["content"]


def test_ask_answer_that_was_cut_says_which_limit_cut_it(chat_server: Start, tmp_path: Path) -> None:
    server = chat_server(lambda request: GOOD, [says('{"verdict": ', finish="length")] * 2)
    (reply,) = chat(server, tmp_path, max_tokens=9).ask([question()], "verdicts")
    assert reply.detail == "it holds no JSON object, and was cut at endpoint.max_tokens = 9"


def test_ask_reasoning_model_is_asked_in_its_own_terms(chat_server: Start, tmp_path: Path) -> None:
    refusals = [
        status(
            400,
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead.",
        ),
        status(400, "Unsupported value: 'temperature' does not support 0 with this model."),
    ]
    server = chat_server(lambda request: GOOD, refusals)
    replies = chat(server, tmp_path, concurrency=1).ask([question("a"), question("b")], "verdicts")
    assert [reply.value for reply in replies] == [{"verdict": "A"}] * 2
    assert [sorted(request) for request in server.requests[2:]] == [
        ["max_completion_tokens", "messages", "model", "response_format"]
    ] * 2
    assert len(server.requests) == 4
    assert len(chat(server, tmp_path).ask([question("a")], "verdicts")) == 1
    assert len(server.requests) == 4


def test_ask_key_that_the_endpoint_says_back_reaches_no_message_and_no_file(
    chat_server: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "sk-0123456789-secret"
    monkeypatch.setenv("JUDGE_KEY", f" {key}\n")
    server = chat_server(lambda request: f"your key is {key}", [None, status(401, f"Incorrect API key: {key}")])
    free = Question([{"role": "user", "content": "a"}], {})
    client = chat(server, tmp_path, api_key_from="env:JUDGE_KEY")
    assert client.ask([free], "texts")[0].value == {"text": "your key is ***"}
    assert server.headers[0]["authorization"] == f"Bearer {key}"
    with pytest.raises(JudgeUnavailable, match=r"Incorrect API key: \*\*\*") as raised:
        client.ask([free._replace(repeat=1)], "texts")
    assert key not in str(raised.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]


def test_ask_without_the_key_says_where_it_belongs(
    chat_server: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(
        ValueError,
        match=r"endpoint.api_key_from = env:JUDGE_KEY, but the environment variable JUDGE_KEY is not set: set it to",
    ):
        chat(chat_server(), tmp_path, api_key_from="env:JUDGE_KEY")
    monkeypatch.setenv("JUDGE_KEY", "kéy")
    with pytest.raises(
        ValueError, match="the value of JUDGE_KEY is not an API key: it must be printable ASCII"
    ) as raised:
        chat(chat_server(), tmp_path, api_key_from="env:JUDGE_KEY")
    assert "kéy" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "key", "warned"),
    [
        ("http://10.0.0.5:8000/v1", "sk-0123456789", True),
        ("http://127.0.0.1:8000/v1", "sk-0123456789", False),
        ("https://api.example.com/v1", "sk-0123456789", False),
    ],
)
def test_key_that_would_travel_in_clear_text_is_warned_of(
    url: str, key: str, warned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("JUDGE_KEY", key)
    check_endpoint(EndpointConfig(url=url, model="m", api_key_from="env:JUDGE_KEY"))
    assert (f"endpoint.url = {url} sends the key unencrypted" in caplog.text) is warned
    assert key not in caplog.text
