"""The debate judge over real HTTP."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.config import JudgeConfig
from components.judges.protocol import Group, JudgeContext, Verdict
from components.judges.registry import check_judge, judge_digest, load_judge
from tests.judges.chat_server import ChatServer, quoted_texts

Start = Callable[..., ChatServer]
GROUP = Group("p", [{"role": "user", "content": "Help me."}], ((0, "wrong"), (1, "right")))


def debating(request: dict[str, Any]) -> str:
    """Quote the answer as its case, and judge by the cases alone."""
    _, *texts = quoted_texts(request)
    if len(texts) == 2:
        side = request["messages"][0]["content"].split("speak for answer ")[1][0]
        return f"Mine says: {texts['AB'.index(side)]}"
    return json.dumps({"reason": "the cases say so", "verdict": "A" if texts[2] == "Mine says: right" else "B"})


def judged(server: ChatServer, scratch: Path, group: Group = GROUP, **knobs: Any) -> list[Verdict]:
    config = JudgeConfig(kind="debate", endpoint=server.endpoint(), **knobs)
    return load_judge(config, JudgeContext(scratch)).judge([group])


def test_debate_decides_by_the_cases_in_both_orders_and_keeps_them(chat_server: Start, tmp_path: Path) -> None:
    server = chat_server(debating)
    forward, backward, conclusion = judged(server, tmp_path)
    assert len(server.requests) == 6
    assert [(verdict.part, verdict.sample_id, verdict.score) for verdict in (forward, backward, conclusion)] == [
        ("forward", 0, 0.0),
        ("backward", 1, 1.0),
        ("", 0, 0.0),
    ]
    assert forward.detail == "the cases say so\n\nThe case for A: Mine says: wrong\n\nThe case for B: Mine says: right"
    assert backward.detail == "the cases say so\n\nThe case for A: Mine says: right\n\nThe case for B: Mine says: wrong"


def test_debate_with_a_case_missing_is_invalid_and_asks_for_no_verdict(chat_server: Start, tmp_path: Path) -> None:
    def mute_for_right(request: dict[str, Any]) -> str:
        reply = debating(request)
        return "" if reply == "Mine says: right" else reply

    server = chat_server(mute_for_right)
    verdicts = judged(server, tmp_path)
    assert {verdict.status for verdict in verdicts} == {"invalid"}
    assert verdicts[0].detail == "no case for answer B: the answer is empty"
    assert verdicts[1].detail == "no case for answer A: the answer is empty"
    assert all(len(quoted_texts(request)) == 3 for request in server.requests)


def test_debate_that_prefers_a_place_ends_in_a_tie(chat_server: Start, tmp_path: Path) -> None:
    def first(request: dict[str, Any]) -> str:
        return debating(request) if len(quoted_texts(request)) == 3 else '{"reason": "it comes first", "verdict": "A"}'

    conclusion = judged(chat_server(first), tmp_path)[-1]
    assert (conclusion.score, conclusion.detail) == (0.5, "the orders disagree")


def test_debate_repeats_the_verdict_and_not_the_cases_and_asks_nothing_of_equal_texts(
    chat_server: Start, tmp_path: Path
) -> None:
    server = chat_server(debating)
    verdicts = judged(server, tmp_path, repeat_share=1.0)
    assert [verdict.part for verdict in verdicts] == ["repeat forward", "repeat backward", "forward", "backward", ""]
    assert len(server.requests) == 8
    equal = Group("q", GROUP.messages, ((3, "same"), (4, "same")))
    server.requests.clear()
    assert [(verdict.sample_id, verdict.opponent_id, verdict.score) for verdict in judged(server, tmp_path, equal)] == [
        (3, 4, 0.5)
    ]
    assert server.requests == []


def test_debate_digest_follows_the_model_and_not_its_place() -> None:
    def config(model: str, port: int) -> JudgeConfig:
        return JudgeConfig(kind="debate", endpoint={"url": f"http://127.0.0.1:{port}/v1", "model": model})

    assert judge_digest(config("m", 1)) == judge_digest(config("m", 2)) != judge_digest(config("n", 1))
    check_judge(config("m", 1))
    with pytest.raises(ValueError, match="is not a URL"):
        check_judge(JudgeConfig(kind="debate", endpoint={"url": "nowhere", "model": "m"}))
