"""One prompt that fails is that prompt's invalid verdicts; different prompts that fail are an outage. By real HTTP."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from components.config import JudgeConfig
from components.judges.chat.ledger import read_usage
from components.judges.protocol import Group, JudgeContext, Verdict
from components.judges.registry import load_judge
from components.preferences.tables import read_verdicts, write_verdicts
from components.records import JudgeUnavailable
from tests.judges.chat_server import ChatServer, Fault, hang, message, quoted_texts, reset, says, status

Start = Callable[..., ChatServer]
FEW, MANY = ("good", "bad"), ("good", "good good", "bad", "bad too")
"""Responses to a prompt, of two questions and of twelve."""
CUT = says('<think>Perhaps {"reason": "", "verdict":"B", "violates": true}? No, because', "length")
FILTER = "The response was filtered due to the prompt triggering Azure OpenAI's content management policy."
LENGTH = "This model's maximum context length is 4096 tokens, however you requested 5000 tokens"
MODERATION = 'meta/llama requires moderation on X. Your input was flagged for "violence". No credits were charged.'


def group(name: str, *texts: str) -> Group:
    return Group(name, [{"role": "user", "content": f"Prompt {name}?"}], tuple(enumerate(texts or FEW)))


def prompt_of(request: dict[str, Any]) -> str:
    return quoted_texts(request)[0].split("Prompt ")[1].split("?")[0]


def honest(request: dict[str, Any]) -> str:
    _, first, second = (text.count("good") for text in quoted_texts(request))
    return json.dumps({"reason": "because", "verdict": "A" if first > second else "B" if second > first else "tie"})


def bad(names: str, fault: Fault) -> Callable[[dict[str, Any]], str | Fault]:
    """Return a script that meets the fault at some prompts, and judges the others."""
    return lambda request: fault if prompt_of(request) in names else honest(request)


def judged(server: ChatServer, scratch: Path, names: str, *texts: str, **settings: Any) -> list[Verdict]:
    endpoint = server.endpoint(**{"concurrency": 1, "max_attempts": 1, **settings})
    judge = load_judge(JudgeConfig(kind="llm", endpoint=endpoint), JudgeContext(scratch))
    return judge.judge([group(name, *texts) for name in names])


def invalid_prompts(verdicts: list[Verdict]) -> dict[str, int]:
    return dict(Counter(verdict.prompt_id for verdict in verdicts if not verdict.part and verdict.score is None))


@pytest.mark.parametrize(
    "fault",
    [
        status(400, FILTER),
        status(400, LENGTH),
        status(403, MODERATION),
        status(400, "no"),
        status(422, "no"),
        status(451, "no"),
        status(403, "Forbidden"),
        status(500, "the engine died of this prompt"),
        reset,
        message(content=""),
        CUT,
    ],
    ids=["filter", "length", "moderation", "400", "422", "451", "403", "500", "reset", "empty", "cut"],
)
def test_prompt_that_fails_is_invalid_and_all_others_are_judged(
    fault: Fault, chat_server: Start, tmp_path: Path
) -> None:
    server = chat_server(bad("b", fault))
    verdicts = judged(server, tmp_path, "abc", *MANY, concurrency=8)
    assert invalid_prompts(verdicts) == {"b": 6}
    assert sum(not verdict.part for verdict in verdicts) == 18
    asked = Counter(prompt_of(request) for request in server.requests)
    assert (asked["a"], asked["c"]) == (12, 12)
    server.script = honest
    assert invalid_prompts(judged(server, tmp_path, "abc", *MANY, concurrency=8)) == {}
    again = Counter(prompt_of(request) for request in server.requests) - asked
    assert again == {"b": 12}, "the next start asks for what was of no use, and for nothing else"


def test_prompts_that_a_filter_refuses_may_come_first_and_be_many(chat_server: Start, tmp_path: Path) -> None:
    server = chat_server(bad("abcdef", status(400, FILTER)))
    for _ in range(2):
        assert invalid_prompts(judged(server, tmp_path, "abcdefg")) == dict.fromkeys("abcdef", 1)
    assert Counter(prompt_of(request) for request in server.requests) == dict.fromkeys("abcdef", 4) | {"g": 2}


def test_prompts_that_are_refused_in_unknown_words_are_no_outage_once_others_were_answered(
    chat_server: Start, tmp_path: Path
) -> None:
    server = chat_server(bad("bcdef", status(400, "nope")))
    for _ in range(2):
        assert invalid_prompts(judged(server, tmp_path, "abcdef")) == dict.fromkeys("bcdef", 1)
    assert Counter(prompt_of(request) for request in server.requests) == dict.fromkeys("bcdef", 4) | {"a": 2}


def test_prompts_that_crash_the_endpoint_between_others_are_no_outage(chat_server: Start, tmp_path: Path) -> None:
    server = chat_server(bad("bdfh", status(500, "engine died")))
    assert invalid_prompts(judged(server, tmp_path, "abcdefghi")) == dict.fromkeys("bdfh", 1)
    assert len(server.requests) == 9 * 2


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (status(503, "overloaded"), "failed 3 questions in a row; last failure: the endpoint answered 503 .*over"),
        (status(400, "no such thing"), "failed 3 questions in a row; last failure: the endpoint answered 400"),
        (
            status(400, "This model does not support response format `json_schema`"),
            "answered 400 .*: set endpoint.output to json_object or text$",
        ),
    ],
)
def test_different_prompts_that_fail_are_an_outage_after_a_question_each(
    fault: Fault, words: str, chat_server: Start, tmp_path: Path
) -> None:
    server = chat_server(lambda request: fault)
    with pytest.raises(JudgeUnavailable, match=words) as raised:
        judged(server, tmp_path, "abcdefgh", *MANY)
    assert [prompt_of(request) for request in server.requests] == ["a", "b", "c"]
    assert "\n" not in str(raised.value)


def test_outage_in_the_middle_keeps_the_answers_and_the_next_start_goes_on(chat_server: Start, tmp_path: Path) -> None:
    server = chat_server(honest, [*[None] * 5, *[status(503)] * 3])
    with pytest.raises(JudgeUnavailable, match="failed 3 questions in a row"):
        judged(server, tmp_path, "abcdefgh")
    assert len(server.requests) == 8
    assert invalid_prompts(judged(server, tmp_path, "abcdefgh")) == {}
    assert len(server.requests) == 8 + 8 * 2 - 5


def test_key_that_loses_its_access_ends_the_asking_after_three_prompts(chat_server: Start, tmp_path: Path) -> None:
    server = chat_server(bad("bcdefgh", status(403, "Forbidden")))
    with pytest.raises(JudgeUnavailable, match=r"answered 403 .*: the key from endpoint.api_key_from must have access"):
        judged(server, tmp_path, "abcdefgh")
    assert [prompt_of(request) for request in server.requests] == ["a", "a", "b", "c", "d"]


def test_prompt_that_hangs_costs_no_other_its_verdict(chat_server: Start, tmp_path: Path) -> None:
    server = chat_server(lambda request: hang if prompt_of(request) == "a" else honest(request))
    verdicts = judged(server, tmp_path, "ab", concurrency=4, timeout_seconds=2.0)
    assert invalid_prompts(verdicts) == {"a": 1}
    usage = read_usage(tmp_path)
    assert usage is not None
    assert usage[:2] == (4, 2)


def test_thought_that_is_cut_off_is_no_verdict_of_any_judge(chat_server: Start, tmp_path: Path) -> None:
    """The verdict within such thoughts is the wrong one: all pairs were turned round."""
    groups = [group(str(number)) for number in range(6)]
    for kind in ("llm", "debate", "constitution", "jury"):
        server = chat_server(lambda request: CUT)
        judge: dict[str, Any] = {"endpoint": server.endpoint()}
        jurors = [judge | {"kind": "llm"}, judge | {"kind": "debate"}]
        config = JudgeConfig(**({"kind": kind, "jurors": jurors} if kind == "jury" else judge | {"kind": kind}))
        verdicts = load_judge(config, JudgeContext(tmp_path / kind)).judge(groups)
        assert {verdict.status for verdict in verdicts} == {"invalid"}
        details = {verdict.detail for verdict in verdicts if verdict.part.endswith(("forward", "kept"))}
        assert all("its thought was cut at endpoint.max_tokens = 512" in detail for detail in details)
        assert all("raise endpoint.max_tokens" in detail for detail in details)
        repeated = Counter(json.dumps(request) for request in server.requests)
        assert set(repeated.values()) == {1}, "no thought is paid for twice"


def test_start_after_one_of_only_cut_thoughts_says_so_before_it_pays_again(
    chat_server: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each start paid for every question again, and nothing told it from a first one."""
    groups = [group(str(number)) for number in range(6)]
    answers: list[str | Fault] = [CUT]
    server = chat_server(lambda request: answers[0])

    def judge(folder: str) -> str:
        caplog.clear()
        config = JudgeConfig.model_validate({"kind": "llm", "endpoint": server.endpoint()})
        load_judge(config, JudgeContext(tmp_path / folder)).judge(groups)
        return caplog.text

    assert "every answer was a thought that was cut" not in judge("same")
    asked = len(server.requests)
    assert (
        f"an earlier start asked all {asked} questions of {server.endpoint()['model']} with endpoint.max_tokens = 512, "
        "and every answer was a thought that was cut: raise it; they are asked, and paid, again"
    ) in judge("same")
    assert len(server.requests) == 2 * asked
    assert "every answer was a thought" not in judge("another"), "a first start has paid for nothing"
    answers[0] = json.dumps({"reason": "because", "verdict": "A"})
    judge("same")
    assert "every answer was a thought" not in judge("same"), "nothing is asked again"


def test_half_a_surrogate_pair_in_a_reason_is_written_and_read_back(chat_server: Start, tmp_path: Path) -> None:
    """It used to kill the stage when the verdicts were written, after all of them were paid."""
    server = chat_server(lambda request: r'{"reason": "good \ud83d", "verdict": "A"}')
    verdicts = judged(server, tmp_path / "scratch", "ab")
    assert {verdict.detail for verdict in verdicts if verdict.part} == {"good \ufffd"}
    write_verdicts(tmp_path, verdicts)
    assert read_verdicts(pd.read_parquet(tmp_path / "verdicts.parquet")) == verdicts
    assert judged(server, tmp_path / "scratch", "ab") == verdicts
    assert len(server.requests) == 4
