"""Answers of endpoints that misbehave, over real HTTP: the reply, its words, the requests and what was charged."""

import gzip
import itertools
import json
import re
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.config import EndpointConfig
from components.judges.chat.client import Chat, Question, Reply
from components.judges.chat.ledger import Usage, read_usage
from components.records import JudgeUnavailable, RoundStopped
from components.runtime import progress
from tests.judges.chat_server import (
    MOVED_PAGE,
    PAGE,
    ChatServer,
    Fault,
    body,
    breaks_off,
    choices,
    hang,
    message,
    no_json,
    redirect,
    says,
    status,
    unasked_encoding,
)

Start = Callable[..., ChatServer]
SCHEMA = {
    "type": "object",
    "properties": {"verdict": {"type": "string", "enum": ["A", "B", "tie"]}},
    "required": ["verdict"],
}
GOOD, WRONG = '{"verdict": "A"}', '{"verdict": "B"}'
PRICES = {"price_per_million_input": 1e4, "price_per_million_output": 2e4}


def question(text: str = "which?") -> Question:
    return Question([{"role": "user", "content": text}], SCHEMA)


def ask(server: ChatServer, tmp_path: Path, *texts: str, **settings: Any) -> list[Reply]:
    endpoint = EndpointConfig(**server.endpoint(**{"concurrency": 1, **settings}))
    return Chat(endpoint, cache=tmp_path / "cache").ask([question(text) for text in texts or ("which?",)], "verdicts")


def good(request: dict[str, Any]) -> str:
    return GOOD


PARTS = [
    [{"type": "thinking", "thinking": [{"type": "text", "text": WRONG}]}, {"type": "text", "text": GOOD}],
    [{"type": "thinking", "thinking": WRONG}, *({"type": "text", "text": half} for half in ('{"verdict":', '"A"}'))],
    [{"type": "reference", "reference_ids": [1]}, {"type": "output_text", "text": GOOD}, {"type": "new", "x": 1}],
    [GOOD],
]


@pytest.mark.parametrize(
    "fault",
    [
        *(message(content=parts) for parts in PARTS),
        message(content=GOOD, reasoning_content=f"perhaps {WRONG}"),
        message(content=GOOD, refusal=None, tool_calls=[]),
        message(content=GOOD, finish=None),
        message(content='{"reason": "one\nline\u2028or two", "verdict": "A"}'),
        message(content=r'{"reason": "half a pair \ud83d", "verdict": "A"}'),
        message(content=f"half a pair \ud83d {GOOD}"),
        choices([{"message": {"content": GOOD}}], usage=None, error=None),
        choices([{"message": {"content": GOOD}}], usage={"prompt_tokens": float("nan"), "completion_tokens": True}),
        unasked_encoding(gzip.compress, "gzip"),
        unasked_encoding(gzip.compress, ""),
        unasked_encoding(zlib.compress, "deflate"),
        unasked_encoding(bytes, "gzip"),
        unasked_encoding(lambda content: b"\xef\xbb\xbf" + content, ""),
    ],
)
def test_ask_strange_answer_that_holds_a_verdict_is_read_and_paid_once(
    fault: Fault, chat_server: Start, tmp_path: Path
) -> None:
    server = chat_server(good, [fault])
    for _ in range(2):
        (reply,) = ask(server, tmp_path)
        assert reply.value is not None, reply.detail
        assert reply.value["verdict"] == "A"
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("fault", "detail", "requests"),
    [
        (message(content=""), "the answer is empty", 2),
        (message(content=None), "the answer is empty", 2),
        (message(content=[]), "the answer is empty", 2),
        (message(content=None, refusal="I can't help\nwith that."), "the model refused: I can't help with that.", 1),
        (message(content=[{"type": "refusal", "refusal": "No."}]), "the model refused: No.", 1),
        (message("content_filter", content=None), "a content filter withheld it", 1),
        (choices([{"index": 0, "finish_reason": "content_filter: RECITATION"}]), "a content filter withheld it", 1),
        (message("SAFETY", content=None), "a content filter withheld it", 1),
        (message("content_filter", content="I think that"), "a content filter cut the answer", 1),
        (message("tool_calls", content=None, tool_calls=[{"id": "1"}]), "the model called a tool", 2),
        (message("function_call", content="", function_call={"name": "f"}), "the model called a tool", 2),
        (message(content=None, reasoning_content=WRONG), "there is a thought, but no answer", 2),
        (message(content=None, reasoning=WRONG), "there is a thought, but no answer", 2),
        (message(content=None, reasoning_details=[{"text": WRONG}]), "there is a thought, but no answer", 2),
        (message(content=PARTS[0][:1]), "there is a thought, but no answer", 2),
        (choices([]), "the completion has no choice", 2),
        (
            message("length", content=None, reasoning_content=WRONG),
            "its thought was cut at endpoint.max_tokens = 512, before an answer: raise endpoint.max_tokens",
            1,
        ),
        (
            says(f"<think>Perhaps {WRONG}? No, because", "length"),
            "its thought was cut at endpoint.max_tokens = 512, before an answer: raise endpoint.max_tokens",
            1,
        ),
        (
            message("length", content=""),
            "the answer is empty, and was cut at endpoint.max_tokens = 512: raise endpoint.max_tokens",
            1,
        ),
        (says(f"<think>Perhaps {WRONG}? No"), "it holds a thought that does not end", 2),
    ],
)
def test_ask_answer_of_no_use_says_why_and_is_asked_for_again_by_the_next_start(
    fault: Fault, detail: str, requests: int, chat_server: Start, tmp_path: Path
) -> None:
    server = chat_server(good, [fault] * requests)
    (reply,) = ask(server, tmp_path, **PRICES)
    assert reply.value is None
    assert reply.detail in (detail, f"the answer is empty: {detail}")
    assert len(server.requests) == requests
    usage = read_usage(tmp_path / "cache")
    assert usage is not None
    assert (usage.calls, usage.unmeasured) == (requests, 0), "what was of no use was paid for all the same"
    (reply,) = ask(server, tmp_path)
    assert reply.value == {"verdict": "A"}
    assert len(server.requests) == requests + 1
    assert ask(server, tmp_path) == [reply]
    assert len(server.requests) == requests + 1


@pytest.mark.parametrize(
    ("finish", "text", "detail"),
    [
        ("stop", "I think A.", "it holds no JSON object"),
        (
            "length",
            f"Perhaps {WRONG}? No, because",
            "it holds no JSON object, and was cut at endpoint.max_tokens = 512",
        ),
    ],
)
def test_ask_model_that_cannot_keep_to_the_form_is_not_paid_for_the_same_words_again(
    finish: str, text: str, detail: str, chat_server: Start, tmp_path: Path
) -> None:
    server = chat_server(good, [says(text, finish)] * 2)
    replies = ask(server, tmp_path, "a", "b")
    assert [reply.detail for reply in replies] == [detail, ""]
    assert ask(server, tmp_path, "a", "b") == replies
    assert len(server.requests) == 3


def test_ask_repair_that_was_empty_is_all_that_the_next_start_asks_for(chat_server: Start, tmp_path: Path) -> None:
    server = chat_server(good, [says("I cannot say."), says("")])
    assert ask(server, tmp_path)[0].detail == "the answer is empty"
    assert ask(server, tmp_path)[0].value == {"verdict": "A"}
    assert [len(request["messages"]) for request in server.requests] == [1, 3, 3]


def test_ask_repair_that_was_cut_off_is_all_that_the_next_start_asks_for(chat_server: Start, tmp_path: Path) -> None:
    server = chat_server(good, [says("I cannot say."), status(500)])
    assert ask(server, tmp_path, max_attempts=1)[0].value is None
    assert ask(server, tmp_path)[0].value == {"verdict": "A"}
    assert [len(request["messages"]) for request in server.requests] == [1, 3, 3]
    assert ask(server, tmp_path)[0].value == {"verdict": "A"}
    assert len(server.requests) == 3


def strict(request: dict[str, Any]) -> str | Fault:
    """Refuse empty messages and roles that do not alternate; answer only a request for a repair."""
    roles = [message["role"] for message in request["messages"]]
    if not all(message["content"] for message in request["messages"]):
        return status(400, "Assistant message must have either content or tool_calls, but not none.")
    if any(one == other for one, other in itertools.pairwise(roles)):
        return status(400, "Conversation roles must alternate user/assistant")
    return GOOD if len(roles) == 3 else ""


def test_ask_repair_of_an_empty_answer_holds_no_empty_message(chat_server: Start, tmp_path: Path) -> None:
    server = chat_server(strict)
    assert ask(server, tmp_path)[0].value == {"verdict": "A"}
    assert len(server.requests) == 2
    assert "the answer is empty" in server.requests[1]["messages"][-1]["content"]
    assert ask(server, tmp_path)[0].value == {"verdict": "A"}
    assert len(server.requests) == 2


def test_ask_repair_that_is_refused_leaves_the_answers_own_reason(chat_server: Start, tmp_path: Path) -> None:
    server = chat_server(good, [says("Hm."), status(400, "the context is too long")])
    first, second = ask(server, tmp_path, "a", "b")
    assert first.detail.startswith("it holds no JSON object; asked for a repair, the endpoint answered 400 ")
    assert second.value == {"verdict": "A"}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (choices(None, error={"message": "Internal Server Error", "code": 500}), "an error in the body .*Internal"),
        (choices([], error={"message": "rate-limited upstream", "code": "429"}), "an error in the body .*rate-limited"),
        (choices(None, error="overloaded"), r"an error in the body \(overloaded\)"),
        (message("error", content='{"verdict": "B"}'), "finish_reason is error"),
        (choices([{"message": {"content": ""}, "error": {"message": "broke off"}}]), "error in the body .*broke off"),
        (choices(None), "is not a chat completion"),
        (choices({"0": 1}), "is not a chat completion"),
        (choices([{"message": {"content": 7}}]), "is not a chat completion"),
        (choices([{"message": {"content": [{"type": "text", "text": None}]}}]), "is not a chat completion"),
        (choices([{"message": None}]), "is not a chat completion"),
        (body(b'{"error": {"message": "busy"}}'), "error in the body .*busy"),
        (body(b'{"object": "error", "message": "busy", "code": 503}'), "error in the body .*busy"),
        (body(b"[1]"), "is not a chat completion"),
        (body(b'{"a":' * 100_000), "is not a chat completion"),
        (body(b'data: {"choices": []}\n\n'), "is not a chat completion"),
        (no_json, "is not a chat completion .*Bad gateway"),
        (breaks_off, "lost the connection within its answer"),
        (unasked_encoding(bytes, "br"), "in the encoding br, which was not asked for"),
        (unasked_encoding(lambda content: gzip.compress(content)[:-20], "gzip"), "a compressed body that"),
        (unasked_encoding(lambda content: b"\x1f\x8bdamage", "gzip"), "a compressed body that is damaged"),
    ],
)
def test_ask_body_that_is_no_completion_is_tried_again_told_and_charged(
    fault: Fault, words: str, chat_server: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = chat_server(good, [fault, fault])
    (reply,) = ask(server, tmp_path, max_attempts=2)
    assert reply.value is None
    assert re.search(words, reply.detail), reply.detail
    assert "\n" not in reply.detail
    usage = read_usage(tmp_path / "cache")
    assert usage is not None
    assert usage.calls == 2
    assert ask(server, tmp_path)[0].value == {"verdict": "A"}
    assert len(server.requests) == 3


def test_ask_completion_without_a_choice_is_charged_what_it_cost(chat_server: Start, tmp_path: Path) -> None:
    server = chat_server(good, [choices([]), message("error", content=None)])
    ask(server, tmp_path, **PRICES)
    usage = read_usage(tmp_path / "cache")
    assert usage is not None
    assert (usage.calls, usage.unmeasured) == (3, 0)
    prompts = sum(sum(len(message["content"]) for message in request["messages"]) // 4 for request in server.requests)
    assert usage == Usage(3, 0, prompts, 24, pytest.approx(prompts * 0.01 + 24 * 0.02))


@pytest.mark.parametrize("code", [400, "403"])
def test_ask_refusal_within_a_body_is_that_question_s(code: Any, chat_server: Start, tmp_path: Path) -> None:
    refusal = choices(None, error={"message": "your input was flagged", "code": code})
    first, second = ask(chat_server(good, [refusal]), tmp_path, "a", "b")
    assert "answered 200 with an error in the body" in first.detail
    assert "your input was flagged" in first.detail
    assert second.value == {"verdict": "A"}


@pytest.mark.parametrize("code", [307, 308])
@pytest.mark.parametrize("location", [MOVED_PAGE, "../../v2/chat/completions", "{url}"])
def test_ask_redirect_on_the_same_host_is_followed_with_the_body(
    code: int, location: str, chat_server: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-0123456789")
    server = chat_server(good)
    there = location.replace("{url}", server.url.replace("/v1", MOVED_PAGE))
    server.faults = [redirect(code, there)] * 4
    replies = ask(server, tmp_path, "a", "b", api_key_from="env:JUDGE_KEY")
    assert [reply.value for reply in replies] == [{"verdict": "A"}] * 2
    once, again = [PAGE, MOVED_PAGE], [MOVED_PAGE] if code == 308 else [PAGE, MOVED_PAGE]
    assert server.paths == once + again
    assert server.requests[0] == server.requests[1]
    assert {headers["authorization"] for headers in server.headers} == {"Bearer sk-0123456789"}


@pytest.mark.parametrize(
    ("code", "location", "words"),
    [
        (308, "{other}/chat/completions", "answered 308 and leads to {other}: set endpoint.url to"),
        (307, "{other}/chat/completions?sig=1", "answered 307 and leads to {other}: set endpoint.url to"),
        (308, "https://127.0.0.1/v1/chat/completions", "answered 308 and leads to https://127.0.0.1/v1: set"),
        (301, MOVED_PAGE, "answered 301 and leads to {here}: set endpoint.url to"),
        (302, "/login", "answered 302 and leads to http://.*/login: set"),
        (308, "", "answered 308 and leads to .*: set endpoint.url to"),
        (308, "http://[", "answered 308 and leads to http://%5b: set endpoint.url to"),
        (308, PAGE, "answered with 3 redirects, the last to .*/v1/chat/completions: endpoint.url must be"),
    ],
)
def test_ask_redirect_elsewhere_is_told_and_the_key_goes_nowhere(
    code: int, location: str, words: str, chat_server: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-0123456789")
    server, other = chat_server(good), chat_server(good)
    server.faults = [redirect(code, location.replace("{other}", other.url))] * 9
    expected = words.replace("{other}", other.url).replace("{here}", server.url.replace("/v1", "/v2"))
    with pytest.raises(JudgeUnavailable, match=expected) as raised:
        ask(server, tmp_path, "a", "b", api_key_from="env:JUDGE_KEY")
    assert other.requests == []
    assert set(server.paths) == {PAGE}
    assert "\n" not in str(raised.value)
    assert "sk-" not in str(raised.value)


class Stopper:
    """Stop the round at the first call."""

    def advanced(self, done: int, total: int, text: str) -> None:
        raise RoundStopped("enough")

    def began(self, round: str, stage: str) -> None: ...

    def ended(self, round: str, stage: str, seconds: float, *, already_done: bool) -> None: ...


def test_ask_requests_that_a_stop_cuts_off_count_as_perhaps_charged(chat_server: Start, tmp_path: Path) -> None:
    server = chat_server(good, [hang] * 2)
    with progress.reporting_to(Stopper()), pytest.raises(RoundStopped, match="enough"):
        ask(server, tmp_path, "a", "b", concurrency=2, timeout_seconds=60)
    assert read_usage(tmp_path / "cache") == Usage(2, 2, 0, 0, None)
    assert all(reply.value for reply in ask(server, tmp_path, "a", "b"))
    assert len(server.requests) == 4


def test_ask_answers_under_way_when_the_endpoint_refuses_the_key_are_kept(chat_server: Start, tmp_path: Path) -> None:
    refused = threading.Event()

    def script(request: dict[str, Any]) -> str | Fault:
        if request["messages"][0]["content"].startswith("slow"):
            assert refused.wait(10)
            time.sleep(0.3)
            return GOOD
        refused.set()
        return status(401, "expired")

    server = chat_server(script)
    with pytest.raises(JudgeUnavailable, match="answered 401"):
        ask(server, tmp_path, "slow", "fast", "later", concurrency=2)
    assert len(server.requests) == 2
    server.script = good
    assert all(reply.value for reply in ask(server, tmp_path, "slow", "fast", "later"))
    assert len(server.requests) == 4


def test_ask_answer_with_half_a_pair_is_repaired_and_the_next_start_finds_it(
    chat_server: Start, tmp_path: Path
) -> None:
    server = chat_server(good, [message(content="half \ud83d"), None])
    for _ in range(2):
        assert ask(server, tmp_path)[0].value == {"verdict": "A"}
    assert len(server.requests) == 2
    assert server.requests[1]["messages"][1]["content"] == "half \ufffd"


def test_ask_ledger_of_an_earlier_version_with_half_a_pair_is_gone_on_with(chat_server: Start, tmp_path: Path) -> None:
    server = chat_server(good, [says("half")])
    ask(server, tmp_path)
    (path,) = (tmp_path / "cache").iterdir()
    first, _ = path.read_text().splitlines()
    path.write_text(first.replace('"half"', r'"half \ud83d"').replace(', "remark": ""', "") + "\n")
    assert ask(server, tmp_path)[0].value == {"verdict": "A"}
    assert len(server.requests) == 3
    assert json.loads(json.dumps(server.requests[2]["messages"][1]["content"])) == "half \ufffd"


def test_ask_about_a_text_with_half_a_pair_is_asked(chat_server: Start, tmp_path: Path) -> None:
    server = chat_server(good)
    assert ask(server, tmp_path, "half \ud83d")[0].value == {"verdict": "A"}
    assert server.requests[0]["messages"][0]["content"].startswith("half \ufffd\n\n")
