"""Nothing is paid for twice, nothing is paid beyond a limit, and what is not known is not 0.

Over real HTTP, over kills and restarts.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.config import EndpointConfig
from components.judges.chat.client import Chat, Question
from components.judges.chat.ledger import Usage, read_usage
from components.records import RoundStopped
from tests.judges.chat_server import ChatServer, body, hang, no_json, reset, status

Start = Callable[..., ChatServer]
PRICES = {"price_per_million_input": 1e4, "price_per_million_output": 2e4}
UNMEASURED = json.dumps({"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]}).encode()


def questions(count: int, length: int = 0) -> list[Question]:
    return [
        Question([{"role": "user", "content": f"question {number} ".ljust(length, "x")}], {}) for number in range(count)
    ]


def chat(server: ChatServer, tmp_path: Path, **settings: Any) -> Chat:
    return Chat(EndpointConfig(**server.endpoint(**settings)), cache=tmp_path / "cache")


def test_max_calls_stops_the_round_and_a_higher_one_goes_on(chat_server: Start, tmp_path: Path) -> None:
    server = chat_server()
    for _ in range(2):
        with pytest.raises(
            RoundStopped, match=r"judge scripted has used 7 calls of endpoint.max_calls = 7: raise it to continue"
        ):
            chat(server, tmp_path, max_calls=7).ask(questions(20), "texts")
        assert len(server.requests) == 7
    assert len(chat(server, tmp_path, max_calls=20).ask(questions(20), "texts")) == 20
    assert len(server.requests) == 20
    assert len(chat(server, tmp_path, max_calls=1).ask(questions(20), "texts")) == 20


def test_max_calls_count_repairs_and_charged_failures_but_not_refusals(chat_server: Start, tmp_path: Path) -> None:
    server = chat_server(lambda request: "yes", [status(429), reset, status(504), status(500), no_json, hang])
    client = chat(server, tmp_path, timeout_seconds=0.5, concurrency=1, max_calls=5, max_attempts=7)
    assert client.ask(questions(1), "texts")[0].value == {"text": "yes"}
    assert len(server.requests) == 7
    assert client.usage[:2] == (5, 4)
    with pytest.raises(RoundStopped):
        client.ask(questions(2), "texts")


def test_max_cost_is_never_exceeded_and_goes_on_where_it_stopped(chat_server: Start, tmp_path: Path) -> None:
    server = chat_server(lambda request: "y" * 40)
    limits = {**PRICES, "max_tokens": 10, "concurrency": 4}
    # 100 prompt tokens at 0.01 and 10 answer tokens at 0.02: a call costs 1.2, and at a byte's guess it may cost 1.53.
    client = chat(server, tmp_path, max_cost=5.2, **limits)
    with pytest.raises(RoundStopped, match=r"has used 4.8 of endpoint.max_cost = 5.2: raise it"):
        client.ask(questions(9, length=400), "texts")
    assert client.usage == Usage(4, 0, 400, 40, pytest.approx(4.8))
    assert len(chat(server, tmp_path, max_cost=11.2, **limits).ask(questions(9, length=400), "texts")) == 9
    assert len(server.requests) == 9


def test_max_cost_holds_where_the_endpoint_measures_nothing(chat_server: Start, tmp_path: Path) -> None:
    server = chat_server(lambda request: "yes", [body(UNMEASURED)] * 9)
    client = chat(server, tmp_path, max_cost=5.0, max_tokens=10, concurrency=1, **PRICES)
    with pytest.raises(RoundStopped, match=r"of endpoint.max_cost = 5"):
        client.ask(questions(9, length=400), "texts")
    assert len(server.requests) == 3
    assert client.usage == Usage(3, 3, 0, 0, None)
    with pytest.raises(RoundStopped):
        chat(server, tmp_path, max_cost=5.0, max_tokens=10, **PRICES).ask(questions(9, length=400), "texts")
    assert len(server.requests) == 3


@pytest.mark.parametrize("prices", [{}, {"price_per_million_input": 1.0}, {"price_per_million_output": 1.0}])
def test_usage_without_both_prices_has_no_cost(prices: dict[str, float], chat_server: Start, tmp_path: Path) -> None:
    client = chat(chat_server(), tmp_path, **prices)
    client.ask(questions(2, length=40), "texts")
    assert client.usage == Usage(2, 0, 20, 0, None)


def test_usage_counts_what_earlier_starts_paid(chat_server: Start, tmp_path: Path) -> None:
    server = chat_server(lambda request: "y" * 40)
    chat(server, tmp_path, **PRICES).ask(questions(2, length=400), "texts")
    client = chat(server, tmp_path, **PRICES)
    client.ask(questions(3, length=400), "texts")
    assert client.usage == Usage(3, 0, 300, 30, pytest.approx(3.6))
    assert read_usage(tmp_path / "cache") == client.usage
    chat(server, tmp_path, model="free").ask(questions(1, length=400), "texts")
    assert read_usage(tmp_path / "cache") == Usage(4, 0, 400, 40, None)
    assert read_usage(tmp_path / "nowhere") is None


def test_cache_serves_only_what_was_asked_in_the_same_way(chat_server: Start, tmp_path: Path) -> None:
    server = chat_server()
    for settings in ({}, {"max_tokens": 5}, {"output": "json_object"}, {"model": "other"}):
        chat(server, tmp_path, **settings).ask([Question([{"role": "user", "content": "a"}], {})], "texts")
    assert len(server.requests) == 3, "without a schema the output mode changes no request"
    moved = chat_server()
    chat(moved, tmp_path).ask([Question([{"role": "user", "content": "a"}], {})], "texts")
    assert not moved.requests


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: [*lines[:-1], lines[-1][: len(lines[-1]) // 2]],
        lambda lines: [lines[0], b'{"key": 1}\n', b"\xff\xfe\n", *lines[1:3]],
    ],
    ids=["torn", "alien"],
)
def test_cache_passes_over_what_is_no_entry(
    damage: Callable[[list[bytes]], list[bytes]], chat_server: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = chat_server()
    chat(server, tmp_path).ask(questions(4), "texts")
    (path,) = (tmp_path / "cache").iterdir()
    path.write_bytes(b"".join(damage(path.read_bytes().splitlines(keepends=True))))
    for _ in range(2):
        assert all(reply.value for reply in chat(server, tmp_path).ask(questions(4), "texts"))
    assert len(server.requests) == 5
    assert "lines that are not a whole entry" in caplog.text


RUN = """
import sys
from pathlib import Path
from components.config import EndpointConfig
from components.judges.chat.client import Chat, Question
endpoint = EndpointConfig.model_validate_json(sys.argv[1])
questions = [Question([{"role": "user", "content": f"question {number} "}], {}) for number in range(40)]
print(sum(reply.value is not None for reply in Chat(endpoint, cache=Path(sys.argv[2])).ask(questions, "texts")))
"""


def test_killed_run_loses_at_most_what_was_under_way(chat_server: Start, tmp_path: Path) -> None:
    server = chat_server(lambda request: time.sleep(0.02) or "yes")
    endpoint = EndpointConfig(**server.endpoint(concurrency=4)).model_dump_json()
    command = [sys.executable, "-c", RUN, endpoint, str(tmp_path / "cache")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        while len(server.requests) < 17:
            time.sleep(0.005)
        os.kill(first.pid, signal.SIGKILL)
    before = len(server.requests)
    assert before < 40
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "40"
    assert 40 <= len(server.requests) <= 44
    again = chat_server()
    moved = EndpointConfig(**again.endpoint()).model_dump_json()
    assert (
        subprocess.run([*command[:3], moved, *command[4:]], capture_output=True, text=True, timeout=60).stdout.strip()
        == "40"
    )
    assert not again.requests
