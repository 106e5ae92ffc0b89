"""A rehearsal counts the questions that a judge really asks, sends none, and never says too little of the cost."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.config import EndpointConfig, JudgeConfig
from components.judges.chat.form import Question
from components.judges.chat.ledger import Tokens, cost_of, read_usage
from components.judges.chat.rehearsal import Asked, Rehearsal, rehearsing, running_rehearsal
from components.judges.protocol import Group, JudgeContext
from components.judges.registry import load_judge
from tests.judges.chat_server import ChatServer

Start = Callable[..., ChatServer]
PRICES = {"price_per_million_input": 3.0, "price_per_million_output": 15.0}
GROUPS = [
    Group("p", [{"role": "user", "content": "Where is my kettle?"}], ((0, "here"), (1, "there"), (2, "nowhere"))),
    Group("q", [{"role": "user", "content": "Why?"}], ((0, "so"), (1, "so"), (2, "because"))),
]


def any_form(request: dict[str, Any]) -> str:
    """Answer in the form that is asked for: free text, a verdict, or whether a principle is violated."""
    text = request["messages"][-1]["content"]
    if "Its JSON schema" not in text:
        return "a case of a few words"
    return json.dumps(
        {"reason": "because", "violates": False} if "violates" in text else {"reason": "because", "verdict": "A"}
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "llm"},
        {"kind": "llm", "repeat_share": 1.0},
        {"kind": "llm", "comparisons": 1},
        {"kind": "debate"},
        {"kind": "constitution"},
    ],
    ids=str,
)
def test_rehearsal_counts_what_is_asked_and_bounds_what_it_costs(
    settings: dict[str, Any], chat_server: Start, tmp_path: Path
) -> None:
    server = chat_server(any_form)
    config = JudgeConfig(**settings, endpoint=server.endpoint(max_tokens=64, **PRICES))
    with rehearsing() as rehearsal:
        load_judge(config, JudgeContext(tmp_path / "rehearsed")).judge(GROUPS)
    assert server.requests == []
    assert not (tmp_path / "rehearsed").exists()
    (asked,) = rehearsal.asked

    load_judge(config, JudgeContext(tmp_path / "real")).judge(GROUPS)
    usage = read_usage(tmp_path / "real")
    assert usage is not None
    assert len(asked.input_tokens) == len(server.requests) == usage.calls > 0
    words = sum(len(re.findall(r"\w+|\W", m["content"])) // 2 for r in server.requests for m in r["messages"])
    assert asked.tokens.input > words / 2
    assert asked.tokens.output == 64 * usage.calls >= usage.output_tokens
    assert asked.cost is not None
    assert usage.cost is not None
    assert usage.cost <= asked.cost < (asked.cost_with_repairs or 0)


def test_cost_by_hand() -> None:
    asked = Asked(EndpointConfig(max_tokens=100, **PRICES), [1000, 3000])
    # 4000 tokens in at 3 and 200 out at 15 per million; with repairs 2 x 4000 + 200 in and 400 out.
    assert asked.tokens == Tokens(4000, 200)
    assert asked.cost == pytest.approx(0.012 + 0.003)
    assert asked.cost_with_repairs == pytest.approx(0.0246 + 0.006)


@pytest.mark.parametrize(
    "endpoint",
    [
        {},
        {"price_per_million_input": 3.0},
        {"price_per_million_output": 15.0},
        {**PRICES, "request_fields": {"max_tokens": None}},
    ],
    ids=["no price", "one price", "the other price", "answers without a limit"],
)
def test_unknown_cost_is_unknown_and_not_zero(endpoint: dict[str, Any]) -> None:
    asked = Asked(EndpointConfig(**endpoint), [1000])
    assert asked.cost is None
    assert asked.cost_with_repairs is None


def test_later_question_that_quotes_an_answer_counts_the_longest_answer() -> None:
    rehearsal = Rehearsal()
    (reply,) = rehearsal.answer(EndpointConfig(max_tokens=50), [Question([{"role": "user", "content": "why?"}], {})])
    assert reply.value is not None
    quoting = Question([{"role": "user", "content": reply.value["text"]}], {})
    rehearsal.answer(EndpointConfig(max_tokens=50), [quoting])
    assert rehearsal.asked[0].input_tokens == [1, 50]


def test_equal_questions_count_once_and_repeats_count_again() -> None:
    question, rehearsal = Question([{"role": "user", "content": "why?"}], {}), Rehearsal()
    rehearsal.answer(EndpointConfig(), [question, question, question._replace(repeat=1)])
    rehearsal.answer(EndpointConfig(), [question])
    rehearsal.answer(EndpointConfig(model="another"), [question])
    assert [len(asked.input_tokens) for asked in rehearsal.asked] == [2, 1]


def test_rehearsal_ends_with_its_block(chat_server: Start, tmp_path: Path) -> None:
    def broken() -> None:
        with rehearsing():
            raise RuntimeError("a judge failed")

    with pytest.raises(RuntimeError):
        broken()
    assert running_rehearsal() is None
    server = chat_server(any_form)
    config = JudgeConfig(kind="llm", endpoint=server.endpoint())
    load_judge(config, JudgeContext(tmp_path / "real")).judge(GROUPS[:1])
    assert len(server.requests) == 6


def test_cost_of_an_unknown_price_is_unknown() -> None:
    assert cost_of(EndpointConfig(), Tokens(10, 10)) is None
