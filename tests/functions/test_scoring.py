"""Calls of the user's functions: what they get, what their answers mean, and what a faulty call costs."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from components.config import CallLimits, FunctionConfig
from components.functions.process import Score
from components.functions.scoring import Sample, score
from components.records import JudgeUnavailable
from tests.functions.conftest import LIMITS, Run, samples


def test_a_function_of_one_response_gets_prompt_response_and_the_columns_that_it_names(run: Run) -> None:
    source = """
def f(prompt, response, answer, weight=1):
    assert prompt == [{"role": "user", "content": "q"}]
    return weight * (response == answer)
"""
    given = samples("4", "5", columns={"answer": "4", "weight": 3, "unused": 1})
    assert run(source, given) == [Score(3.0), Score(0.0)]


def test_a_function_of_all_responses_gets_each_text_of_a_prompt_once(run: Run) -> None:
    source = """
def f(prompt, responses):
    order = sorted(responses, key=len)
    return [order.index(text) + 10 * (len(set(responses)) == len(responses)) for text in responses]
"""
    given = [*samples("bbb", "a", "bbb", "cc"), *samples("a", "bbbb", group=1)]
    assert [each.value for each in run(source, given)] == [12, 10, 12, 11, 10, 11]


def test_a_function_of_completions_gets_what_trl_passes(run: Run) -> None:
    source = """
def f(prompts, completions, completion_ids, answer, trainer_state, log_extra, log_metric, **kwargs):
    assert prompts == [[{"role": "user", "content": "q"}], [{"role": "user", "content": "r"}]], prompts
    assert [[message["role"] for message in each] for each in completions] == [["assistant"], ["assistant"]]
    assert completion_ids == [[1, 9], [2, 9]], completion_ids
    assert answer == ["a", None] and kwargs == {"level": [None, 2]}, kwargs
    log_extra("answer", answer)
    log_metric("mean", 0.5)
    return [len(each[0]["content"]) for each in completions]
"""
    given = [*samples("x", columns={"answer": "a"}), *samples("yy", columns={"level": 2}, prompt="r", group=1)]
    assert run(source, given) == [Score(1.0), Score(2.0)]


def test_text_form_gives_plain_texts(run: Run) -> None:
    """Of TRL's standard form: a length of messages would be 1 for every completion."""
    source = "def f(prompts, completions, **_):\n    assert prompts == ['q'] * 2\n    return [*map(len, completions)]"
    assert run(source, samples("abc", "d"), form="text") == [Score(3.0), Score(1.0)]


def test_batches_keep_the_responses_to_one_prompt_together(run: Run, tmp_path: Path) -> None:
    source = "def f(prompts, completions):\n    return [len(completions)] * len(completions)"
    given = [sample for group in range(4) for sample in samples("a", "b", prompt=f"q{group}", group=group)]
    limits = LIMITS.model_copy(update={"responses_per_call": 5})
    assert [each.value for each in run(source, given, limits)] == [4] * 8


def test_equal_responses_to_equal_prompts_with_equal_columns_are_scored_once(run: Run, tmp_path: Path) -> None:
    source = f"""
def f(response, answer):
    with open({str(tmp_path / "calls")!r}, "a") as file:
        file.write(response + answer + " ")
    return 1
"""
    given = [
        *samples("a", "a", "b", columns={"answer": "1"}),
        *samples("a", columns={"answer": "1"}, group=1),
        *samples("a", columns={"answer": "2"}, group=2),
        *samples("a", columns={"answer": "1"}, prompt="other", group=3),
    ]
    assert run(source, given) == [Score(1.0)] * 6
    assert (tmp_path / "calls").read_text().split() == ["a1", "b1", "a2", "a1"]


def test_scores_outlive_a_killed_run_but_not_a_change_of_the_code(run: Run, tmp_path: Path) -> None:
    source = """
def f(response):
    if response == "bad": raise ValueError("x")
    with open({path!r}, "a") as file: file.write(response + " ")
    return {value}
"""
    path = str(tmp_path / "calls")
    first = run(source.format(path=path, value=1), samples("a", "bad"))
    with (tmp_path / "scratch" / "functions.jsonl").open("a") as file:
        file.write('["cut')
    again = run(source.format(path=path, value=1), samples("a", "bad", "c"))
    assert again == [*first, Score(1.0)]
    assert Path(path).read_text().split() == ["a", "c"]
    assert run(source.format(path=path, value=2), samples("a")) == [Score(2.0)]


def test_constant_arguments_go_before_columns_and_behind_what_is_scored(run: Run) -> None:
    source = "def f(response, pattern):\n    return pattern == 'given' and response == 'x'"
    given = samples("x", columns={"pattern": "of the row", "response": "of the row"})
    assert run(source, given, arguments={"pattern": "given", "response": "given"}) == [Score(1.0)]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("float('nan')", "it returned nan"),
        ("-float('inf')", "it returned -inf"),
        ("'7'", "it returned '7' (str), but a score must be a number or None"),
        ("[1.0]", "it returned [1.0] (list), but a score must be a number or None"),
        ("10 ** 400", "it returned an integer that is too large"),
        ("1 / 0", "ZeroDivisionError: division by zero (rewards.py line 2)"),
        ("__import__('sys').exit(3)", "SystemExit: 3 (rewards.py line 2)"),
        ("missing", "NameError: name 'missing' is not defined (rewards.py line 2)"),
        ("bytearray(2 ** 31)", "MemoryError (rewards.py line 2)"),
        ("__import__('os')._exit(3)", "its process exited (3)"),
        ("__import__('os').kill(__import__('os').getpid(), 11)", "its process was killed by SIGSEGV"),
    ],
)
def test_a_faulty_answer_has_its_reason_and_the_others_go_on(value: str, says: str, run: Run) -> None:
    source = f"def f(response):\n    return {value} if response == 'bad' else 1"
    assert run(source, samples("a", "bad", "b")) == [Score(1.0), Score(None, says), Score(1.0)]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("[1]", "ValueError: it returned 1 scores for 2 responses"),
        ("3", "TypeError: it returned 3 (int), but must return a list of 2 scores"),
        ("None", "TypeError: it returned None (NoneType), but must return a list of 2 scores"),
    ],
)
@pytest.mark.parametrize("parameters", ["prompt, responses", "prompts, completions"])
def test_a_list_that_does_not_fit_makes_its_call_invalid(value: str, says: str, parameters: str, run: Run) -> None:
    assert run(f"def f({parameters}):\n    return {value}", samples("a", "b")) == [Score(None, says)] * 2


def test_numbers_of_numpy_and_truth_values_are_scores_and_none_is_not_applicable(run: Run) -> None:
    source = """
import numpy as np
def f(prompts, completions):
    return [np.float32(0.5), np.array(2), True, None, np.float64("nan")]
"""
    assert run(source, samples("a", "b", "c", "d", "e")) == [
        *(Score(value) for value in (0.5, 2.0, 1.0, None)),
        Score(None, "it returned nan"),
    ]


def test_a_call_beyond_its_time_is_killed_alone_and_its_children_with_it(run: Run, tmp_path: Path) -> None:
    source = f"""
import subprocess, time
def f(response):
    if response == "bad":
        child = subprocess.Popen(["sleep", "300"])
        open({str(tmp_path / "child")!r}, "w").write(str(child.pid))
        while True: time.sleep(1)
    return 1
"""
    limits = LIMITS.model_copy(update={"time_limit_seconds": 4.0})
    killed = Score(None, "it was killed after 4 s (time_limit_seconds)")
    assert run(source, samples("a", "bad", "b"), limits) == [Score(1.0), killed, Score(1.0)]
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 10
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_memory_of_children_counts(run: Run) -> None:
    source = """
import subprocess, sys
def f(response):
    if response == "bad":
        fill = "import time; x = [b'1' * 150_000_000 for _ in range(1)]; time.sleep(60)"
        several = [subprocess.Popen([sys.executable, "-c", fill]) for _ in range(2)]
        for child in several: child.wait()
    return 1
"""
    limits = CallLimits(time_limit_seconds=50, memory_limit_gb=0.25)
    bad, good = run(source, samples("bad", "a"), limits)
    assert bad.error.startswith("it was killed at 0.")
    assert bad.error.endswith(" GiB of memory (memory_limit_gb = 0.25)")
    assert good == Score(1.0)


def test_async_calls_wait_together_and_one_that_blocks_does_not_harm_the_others(run: Run, tmp_path: Path) -> None:
    """The barrier opens only if three calls wait at the same time."""
    source = """
import asyncio, time
barrier = asyncio.Barrier(3)
async def f(response):
    if response == "block": time.sleep(300)
    if response == "late": await asyncio.sleep(300)
    if response == "raise": raise ValueError("x")
    if response == "meet": pass
    elif len(response) == 1: await barrier.wait()
    return 1
"""
    limits = CallLimits(time_limit_seconds=5, memory_limit_gb=1, concurrent_calls=8)
    late, wrong = Score(None, "TimeoutError: it took more than 5 s"), Score(None, "ValueError: x (rewards.py line 7)")
    assert run(source, samples("a", "b", "c", "late", "raise"), limits) == [*[Score(1.0)] * 3, late, wrong]
    killed = Score(None, "it was killed after 5 s (time_limit_seconds)")
    assert run(source, samples("meet", "block", "late"), limits) == [Score(1.0), killed, late]


def test_what_a_function_prints_goes_to_the_log_and_not_into_the_protocol(run: Run, tmp_path: Path) -> None:
    source = """
import os, sys
print("loaded")
def f(response):
    print('[[{"score": 99}]]')
    os.write(1, b"raw\\n"); sys.stderr.write("error\\n")
    assert sys.stdin.read() == ""
    return 1
"""
    assert run(source, samples("a")) == [Score(1.0)]
    assert (tmp_path / "scratch" / "functions.log").read_text() == 'loaded\n[[{"score": 99}]]\nraw\nerror\n'


def test_a_function_that_ends_every_process_stops_the_judging(run: Run) -> None:
    source = "import os\ndef f(response):\n    os._exit(1)"
    with pytest.raises(JudgeUnavailable, match="the last 16 calls of the Python function each ended its process"):
        run(source, samples(*map(str, range(40))))


def test_large_arguments_and_answers_pass(run: Run) -> None:
    text = "ä\u2028\n" * 400_000
    assert run("def f(response):\n    raise ValueError(response)", samples(text))[0].error.startswith("ValueError: ä")
    assert run("def f(response):\n    return len(response)", samples(text)) == [Score(1_200_000.0)]


def test_the_process_ends_with_the_one_that_calls_it(tmp_path: Path) -> None:
    """A killed training must not leave the user's function running."""
    file = tmp_path / "rewards.py"
    file.write_text(
        f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ndef f(response): 1"
    )
    # A process of its own, since a fork of the tests' own one maps too much.
    script = (
        "import os\nfrom components.config import CallLimits, FunctionConfig\n"
        "from components.functions.process import FunctionProcess\n"
        f"function = FunctionConfig(function={f'{file}:f'!r})\n"
        "with FunctionProcess([function], CallLimits(), log=None) as process:\n"
        "    process.describe()\n    os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(pid)


def test_several_functions_share_a_process_and_keep_their_own_columns(tmp_path: Path) -> None:
    file = tmp_path / "rewards.py"
    file.write_text("import os\ndef f(response): return os.getpid()\ndef g(completions, answer): return [len(answer)]")
    functions = [FunctionConfig(function=f"{file}:{name}") for name in "fg"]
    given: list[Sample] = samples("a", columns={"answer": "abc"})
    one, other = score(given, functions, LIMITS, scratch=tmp_path)
    assert one[0].value != os.getpid()
    assert other == [Score(1.0)]
    kept: list[Any] = [json.loads(line) for line in (tmp_path / "functions.jsonl").read_text().splitlines()]
    assert [value for _, value in kept] == [one[0].value, 1.0]
