"""The functions that ship with the project, called as a judge calls them."""

import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from components.config import FunctionConfig
from components.functions.library import exact_answer, json_schema, pattern, unit_tests
from components.functions.process import Score
from components.functions.scoring import score
from tests.functions.conftest import LIMITS, samples

LIBRARY = "components.functions.library"


def judged(name: str, *texts: str, tmp_path: Path, arguments: dict[str, Any] | None = None, **columns: Any) -> Any:
    function = FunctionConfig(function=f"{LIBRARY}.{name}:score", arguments=arguments or {})
    (scores,) = score(samples(*texts, columns=columns), [function], LIMITS, scratch=tmp_path)
    return scores


@pytest.mark.parametrize(
    ("response", "answer", "expected"),
    [
        ("4", "4", 1),
        (" 4. ", "4", 1),
        ("The answer is 1,234.50.", "1234.5", 1),
        ("It is 3, no: 4", 4, 1),
        ("It is 4, no: 3", "4", 0),
        ("14", "4", 0),
        ("-4", "4", 0),
        (r"So \boxed{\frac{1}{2}} it is, for 7 reasons.", r"\frac{1}{2}", 1),
        (r"First \boxed{3}, then \boxed{4}", "4", 1),
        (r"\boxed{4} is right; 5 is not", "4", 1),
        ("<answer> Paris </answer> not Rome", "paris", 1),
        ("Thinking of 5\n#### 72", "72", 1),
        ("Paris", "paris", 1),
        ("Is it Paris?", "Paris", 0),
        ("The code 7 is", "7a", 0),
        ("7", "seven", 0),
        ("cab", ["taxi", "cab"], 1),
        ("", "4", 0),
        ("4", None, None),
        ("4", [], None),
    ],
)
def test_exact_answer(response: str, answer: Any, expected: float | None) -> None:
    assert exact_answer.score(response, answer) == expected


def test_exact_answer_that_must_be_marked() -> None:
    assert exact_answer.score("4", "4", marked=True) == 0
    assert exact_answer.score("#### 4", "4", marked=True) == 1


@pytest.mark.parametrize(
    ("response", "settings", "expected"),
    [
        ("<think>a\nb</think>c", {"pattern": "<think>.*</think>.+"}, 1),
        ("x <think>a</think>c", {"pattern": "<think>.*</think>.+"}, 0),
        ("x <think>a</think>c", {"pattern": "<think>", "whole": False}, 1),
        ("one\ntwo", {"pattern": "one.two", "flags": ""}, 0),
        ("ONE\nTWO", {"pattern": "one.two", "flags": "si"}, 1),
        ("anything", {"pattern": None}, None),
    ],
)
def test_pattern(response: str, settings: dict[str, Any], expected: float | None) -> None:
    assert pattern.score(response, **settings) == expected


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


@pytest.mark.parametrize(
    ("response", "schema", "expected"),
    [
        ('{"n": 3}', SCHEMA, 1),
        ('```json\n{"n": 3}\n```', SCHEMA, 1),
        ('Here: {"n": 3}', SCHEMA, 0),
        ('{"n": "3"}', SCHEMA, 0),
        ('{"n": 3, "m": 1}', SCHEMA, 0),
        ("[" * 100_000, SCHEMA, 0),
        ("NaN", {"type": "number"}, 0),
        ('{"n": 3}', '{"type": "object"}', 1),
        ("3", True, 1),
        ("3", None, None),
    ],
)
def test_json_schema(response: str, schema: Any, expected: float | None) -> None:
    assert json_schema.score(response, schema) == expected


def test_json_schema_that_is_none_or_elsewhere_makes_the_verdict_invalid(tmp_path: Path) -> None:
    (wrong,) = judged("json_schema", "{}", tmp_path=tmp_path, schema={"type": "objekt"})
    assert wrong.error.startswith("ValueError: the column schema is not a JSON schema: 'objekt' is not valid")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        reference = {"$ref": f"http://127.0.0.1:{server.getsockname()[1]}/schema.json"}
        (elsewhere,) = judged("json_schema", "{}", tmp_path=tmp_path, schema=reference)
        with pytest.raises(TimeoutError):
            server.accept()
    assert "Unresolvable" in elsewhere.error


def test_an_invalid_pattern_makes_the_verdict_invalid(tmp_path: Path) -> None:
    (wrong,) = judged("pattern", "x", tmp_path=tmp_path, arguments={"pattern": "("})
    assert wrong.value is None
    assert "missing ), unterminated subpattern" in wrong.error


ADD = "def add(a, b):\n    return a + b\n"
TESTS = ["assert add(1, 2) == 3", "assert add('a', 'b') == 'ab'"]


@pytest.mark.parametrize(
    ("response", "tests", "expected"),
    [
        (ADD, TESTS, 1),
        (f"Here you are:\n```python\n{ADD}```\nIt adds.", TESTS, 1),
        (f"```python\nwrong\n```\nBetter:\n```\n{ADD}```", TESTS, 1),
        ("def add(a, b):\n    return 3", TESTS, 0.5),
        (ADD, "assert add(1, 2) == 3\nassert add(1, 2) == 4", 0),
        ("def add(a, b)", TESTS, 0),
        ("I cannot.", TESTS, 0),
        ("import sys\nsys.exit(0)", TESTS, 0),
        ("import os\nos._exit(0)", TESTS, 0),
        ("def add(a, b):\n    bytearray(2 ** 30)\n    return a + b", TESTS[:1], 0),
        ("print('x' * 10 ** 7)\n" + ADD, TESTS, 1),
        (ADD, [], None),
        (ADD, None, None),
    ],
)
def test_unit_tests(response: str, tests: Any, expected: float | None) -> None:
    assert unit_tests.score(response, tests) == expected


def test_unit_tests_run_behind_a_setup_and_share_their_time() -> None:
    assert unit_tests.score("x = math.pi", "assert x > 3", setup="import math") == 1
    endless = ["assert True", "while True: pass", "assert True"]
    assert unit_tests.score("", endless, seconds=3.0) == pytest.approx(1 / 3)


def test_unit_tests_that_are_left_when_the_time_is_used_up_have_failed() -> None:
    """A sandbox that had no time left to start must not make the verdict invalid."""
    assert unit_tests.score("", ["import time; time.sleep(300)", "assert True"], seconds=0.5) == 0


def test_unit_tests_without_a_sandbox_are_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_tests, "_unshare", lambda: ("false",))
    with pytest.raises(RuntimeError, match="the sandbox did not start"):
        unit_tests.score("", ["assert True"])


def test_unit_tests_that_must_be_fenced_refuse_a_sandbox_with_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_tests, "missing_parts", lambda: ("no Landlock",))
    assert unit_tests.score("", ["assert True"]) == 1
    with pytest.raises(RuntimeError, match="the sandbox is not whole on this machine: no Landlock"):
        unit_tests.score("", ["assert True"], strict=True)


def test_code_of_a_response_reaches_neither_files_nor_network_nor_environment_nor_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine of CI has Landlock and namespaces; where one is missing, `missing_parts` says so."""
    assert unit_tests.missing_parts() == ()
    monkeypatch.setenv("SECRET", "key")
    secret = tmp_path / "secret"
    secret.write_text("x")

    def passes(code: str) -> bool:
        return unit_tests.score(code, ["pass"], seconds=20.0) == 1.0

    assert passes("open('own', 'w').write('x'); assert open('own').read() == 'x'")
    assert not passes(f"open({str(secret)!r}).read()")
    assert not passes(f"open({str(tmp_path / 'new')!r}, 'w')")
    assert not passes(f"import os\nos.unlink({str(secret)!r})")
    assert not passes(f"import os\nos.listdir({str(tmp_path)!r})")
    assert passes("import os\nassert 'SECRET' not in os.environ")
    assert not passes(f"import os\nos.kill({os.getpid()}, 0)")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        connect = f"import socket\nsocket.create_connection({address!r}, 2)"
        heard: list[Any] = []
        waiter = threading.Thread(target=lambda: heard.append(server.accept()))
        waiter.start()
        assert not passes(connect)
        socket.create_connection(address).close()  # the only one that arrives
        waiter.join()
        assert len(heard) == 1
        heard[0][0].close()
    assert secret.read_text() == "x"
    assert not (tmp_path / "new").exists()


def test_processes_of_a_response_end_with_its_test() -> None:
    code = """
import os, time
alive, tell = os.pipe()
if os.fork() == 0:
    os.setsid()
    os.write(tell, b"1")
    time.sleep(300)
assert os.read(alive, 1) == b"1"
"""
    assert unit_tests.score(code, ["pass"]) == 1
    deadline = time.monotonic() + 10
    while _sandboxed() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _sandboxed()


def _sandboxed() -> list[int]:
    script = unit_tests.sandboxed.__file__
    return [each.pid for each in psutil.process_iter(["cmdline"]) if script in str(each.info["cmdline"])]


def test_unit_tests_in_the_process_of_a_judge(tmp_path: Path) -> None:
    scores = judged("unit_tests", ADD, "def add(a, b): return 3", "no code", tmp_path=tmp_path, tests=TESTS)
    assert scores == [Score(1.0), Score(0.5), Score(0.0)]
