"""The fields of a request: what the config sets or leaves out, and what a model refuses in many words."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from components.artifacts import digest
from components.config import EndpointConfig, JudgeConfig
from components.judges.chat.client import Chat, Question, Reply
from components.judges.registry import judge_digest
from components.records import JudgeRef, JudgeUnavailable
from tests.judges.chat_server import ChatServer, Fault, status

Start = Callable[..., ChatServer]
Refuses = Callable[[dict[str, Any]], bool]
ANSWER = "fine"


def questions(count: int) -> list[Question]:
    return [Question([{"role": "user", "content": f"question {number}"}], {}) for number in range(count)]


def ask(server: ChatServer, tmp_path: Path, count: int = 2, **settings: Any) -> list[Reply]:
    endpoint = EndpointConfig(**server.endpoint(**{"concurrency": 1, **settings}))
    return Chat(endpoint, cache=tmp_path / "cache").ask(questions(count), "texts")


def refusing(refuses: Refuses, words: str, code: int = 400) -> Callable[[dict[str, Any]], str | Fault]:
    return lambda request: status(code, words) if refuses(request) else ANSWER


NO_TEMPERATURE = [
    "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported.",
    "Unsupported parameter: 'temperature' is not supported with this model.",
    "`temperature` is deprecated for this model.",
    "invalid temperature: only 1 is allowed for this model",
    "invalid temperature: only 0.6 is allowed for this model",
    "litellm.UnsupportedParamsError: gpt-5 models don't support temperature=0. Only temperature=1 is supported.",
    "bedrock does not support parameters: {'temperature': 0}. To drop these, set `litellm.drop_params=True`",
    '#: subject must not be valid against schema {"required":["messages"]}#/temperature: expected type: Number',
    "[{'type': 'extra_forbidden', 'loc': ('body', 'temperature'), 'msg': 'Extra inputs are not permitted'}]",
    'Invalid JSON payload received. Unknown name "temperature": Cannot find field.',
    'Provider returned error: {\'raw\': \'{"error": {"param": "temperature", "code": null}}\'}',
    "Temperature must be 1 when thinking is enabled",
    "该模型不支持 temperature 参数",
    "x" * 400 + " temperature",
]


@pytest.mark.parametrize("words", NO_TEMPERATURE)
@pytest.mark.parametrize("code", [400, 422])
def test_model_that_refuses_a_temperature_in_any_words_is_asked_without_one(
    words: str, code: int, chat_server: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = chat_server(refusing(lambda request: "temperature" in request, words, code))
    assert [reply.value for reply in ask(server, tmp_path)] == [{"text": ANSWER}] * 2
    assert ["temperature" in request for request in server.requests] == [True, False, False]
    assert [record.message for record in caplog.records] == [
        "the endpoint accepts no temperature: the model uses its own, so its answers may vary"
    ]


@pytest.mark.parametrize(
    "words",
    [
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.",
        "Unknown parameter: 'max_tokens'",
    ],
)
def test_model_that_refuses_max_tokens_and_a_temperature_learns_both_by_one_question(
    words: str, chat_server: Start, tmp_path: Path
) -> None:
    def script(request: dict[str, Any]) -> str | Fault:
        if "max_tokens" in request:
            return status(400, words)
        return status(400, NO_TEMPERATURE[2]) if "temperature" in request else ANSWER

    server = chat_server(script)
    assert all(reply.value for reply in ask(server, tmp_path, max_tokens=77))
    assert len(server.requests) == 4
    assert [sorted(request) for request in server.requests[2:]] == [["max_completion_tokens", "messages", "model"]] * 2
    assert server.requests[-1]["max_completion_tokens"] == 77
    assert all(reply.value for reply in ask(server, tmp_path, max_tokens=77))
    assert len(server.requests) == 4, "what was learnt is no part of the key of a paid answer"


def test_refusal_that_only_quotes_a_field_teaches_nothing(chat_server: Start, tmp_path: Path) -> None:
    def script(request: dict[str, Any]) -> str | Fault:
        text = request["messages"][0]["content"]
        return status(400, "content filter: 'temperature is not supported'") if text == "question 0" else ANSWER

    server = chat_server(script)
    assert [reply.value for reply in ask(server, tmp_path)] == [None, {"text": ANSWER}]
    assert ["temperature" in request for request in server.requests] == [True, False, True]


@pytest.mark.parametrize(
    "words",
    [
        "This model's maximum context length is 4096 tokens. However, you requested 4608 tokens (4096 in the messages, "
        "512 in the completion). Please reduce the length of the messages or max_tokens.",
        "'max_tokens' or 'max_completion_tokens' is too large: 512. This model's maximum context length is 4096 tokens "
        "and your request has 3600 input tokens",
    ],
)
def test_prompt_that_is_too_long_does_not_rename_the_limit(words: str, chat_server: Start, tmp_path: Path) -> None:
    server = chat_server(faults=[status(400, words)])
    assert [reply.value is None for reply in ask(server, tmp_path, 3)] == [True, False, False]
    assert ["max_tokens" in request for request in server.requests] == [True, True, True]


def test_fields_of_the_config_are_set_and_left_out(chat_server: Start, tmp_path: Path) -> None:
    fields = {"temperature": None, "reasoning_effort": "low", "provider": {"order": ["x"]}, "max_tokens": None}
    server = chat_server()
    ask(server, tmp_path, 1)
    ask(server, tmp_path, 1, request_fields=fields)
    ask(server, tmp_path, 1, request_fields={"temperature": 0.6})
    plain, changed, warmer = server.requests
    assert plain["temperature"] == 0
    assert changed == {
        "model": "scripted",
        "messages": plain["messages"],
        "reasoning_effort": "low",
        "provider": {"order": ["x"]},
    }
    assert warmer == plain | {"temperature": 0.6}
    for settings in ({}, {"request_fields": fields}, {"request_fields": {"temperature": 0.6}}):
        ask(server, tmp_path, 1, **settings)
    assert len(server.requests) == 3, "each way of asking has paid answers of its own"


def test_field_of_the_config_that_is_refused_by_all_says_what_to_leave_out(chat_server: Start, tmp_path: Path) -> None:
    words = "Unrecognized request argument supplied: reasoning_effort"
    server = chat_server(refusing(lambda request: "reasoning_effort" in request, words))
    remedy = r": leave it out with endpoint.request_fields: \{reasoning_effort: null\}$"
    with pytest.raises(JudgeUnavailable, match=remedy):
        ask(server, tmp_path, 9, request_fields={"reasoning_effort": "low"})
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "x"}, "`model` cannot be set here: use endpoint.model"),
        ({"messages": []}, "`messages` cannot be set here"),
        ({"stream": True}, "`stream` cannot be set here: answers are read whole"),
        ({"n": 2}, "`n` cannot be set here: one answer is read"),
        ({"max_tokens": 5}, "`max_tokens` cannot be set here: use endpoint.max_tokens"),
        ({"max_completion_tokens": 5}, "`max_completion_tokens` cannot be set here: use endpoint.max_tokens"),
        ({"temperature": float("nan")}, "a field is not a finite number"),
    ],
)
def test_fields_that_the_judge_sets_itself_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EndpointConfig(request_fields=fields)


def test_cost_cannot_be_limited_without_a_limit_of_tokens() -> None:
    prices = {"price_per_million_input": 1.0, "price_per_million_output": 1.0}
    with pytest.raises(ValidationError, match="max_cost needs max_tokens: do not leave it out"):
        EndpointConfig(request_fields={"max_tokens": None}, max_cost=1.0, **prices)


PUBLISHED = "21c5d5af1193e3c14d215014dd2b7bb924fff28b83b32537ceeae384498fbbbf"


@pytest.mark.parametrize("kind", ["llm", "constitution", "debate"])
def test_fields_are_part_of_a_judges_identity_once_they_are_set(kind: str) -> None:
    def judge(**settings: Any) -> JudgeConfig:
        return JudgeConfig(kind=kind, endpoint={"url": "http://127.0.0.1:9/v1", "model": "m", **settings})

    plain, warmer = judge(), judge(request_fields={"temperature": 1})
    assert judge_digest(judge(request_fields={})) == judge_digest(plain) != judge_digest(warmer)
    references = [digest(JudgeRef(config=config, digest="")) for config in (plain, warmer)]
    assert references[0] != references[1]
    assert json.loads(warmer.model_dump_json())["endpoint"]["request_fields"] == {"temperature": 1}


def test_judge_without_fields_has_the_identity_that_version_0_1_gave_it() -> None:
    config = JudgeConfig(kind="llm", endpoint={"url": "http://127.0.0.1:9/v1", "model": "m"})
    assert digest(JudgeRef(config=config, digest="")) == PUBLISHED
