"""The self judge: transformers' real server over a policy of the built-in world."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from components.config import EndpointConfig, JudgeConfig, PolicyConfig
from components.judges import self_judge
from components.judges.protocol import Group, JudgeContext
from components.judges.registry import check_judge, judge_digest, load_judge
from components.judges.self_judge import serving_policy
from components.models.loading import start_ref
from components.records import JudgeUnavailable, ModelRef, RoundStopped
from components.runtime import progress
from components.serving import server
from components.serving.plan import Serving

LIMITS = PolicyConfig(dtype="float32")
GROUP = Group(
    "p",
    [{"role": "user", "content": "My kettle arrived broken. The order is #5301."}],
    ((0, "Sorry about that."), (1, "No.")),
)
MARK = "RATCHET_TEST_OF_SELF"
"""Environment variable that marks a test's own processes."""


@contextlib.contextmanager
def not_served(serving: Serving, engine: str) -> Iterator[None]:
    """Stand in for a server that gets no questions."""
    yield


@pytest.fixture
def policy(starter_directory: Path) -> ModelRef:
    return start_ref(starter_directory, revision="main")


def processes(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                found.append(process)
    return found


def await_none(mark: str) -> None:
    deadline = time.monotonic() + 20
    while (left := processes(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


def test_self_judge_asks_the_policy_itself_and_leaves_no_server(
    policy: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MARK, str(tmp_path))
    config = JudgeConfig(kind="self", endpoint={"max_tokens": 8, "concurrency": 1})
    judge = load_judge(config, JudgeContext(tmp_path, policy=policy, limits=LIMITS))
    verdicts = judge.judge([GROUP])
    # A model of a million parameters that knows a hundred words writes no JSON: its answers are counted as invalid, and
    # none is guessed.
    assert [(verdict.part, verdict.status, verdict.judge) for verdict in verdicts] == [
        ("forward", "invalid", "self"),
        ("backward", "invalid", "self"),
        ("", "invalid", "self"),
    ]
    assert "it holds no JSON object" in verdicts[0].detail
    (ledger,) = tmp_path.glob(f"chat-policy-{policy.digest[:16]}-*.jsonl")
    paid = ledger.read_text().splitlines()
    assert len(paid) == 4, "two orders, each with its repair"
    await_none(str(tmp_path))
    monkeypatch.setattr(self_judge, "served", not_served)
    assert judge.judge([GROUP]) == verdicts, "another port is no other judge: all is answered from the cache"
    assert ledger.read_text().splitlines() == paid


KILLED = """
import sys, time
from pathlib import Path
from components.config import EndpointConfig, PolicyConfig
from components.judges.self_judge import serving_policy
from components.models.loading import start_ref
policy = start_ref(Path(sys.argv[1]), revision="main")
with serving_policy(policy, PolicyConfig(dtype="float32"), EndpointConfig(), scratch=Path(sys.argv[2])) as endpoint:
    print(endpoint.url, flush=True)
    time.sleep(600)
"""


def test_self_judge_killed_leaves_no_server(policy: ModelRef, tmp_path: Path) -> None:
    mark = str(tmp_path)
    command = [sys.executable, "-c", KILLED, policy.base, mark]
    with subprocess.Popen(
        command, env={**os.environ, MARK: mark}, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline().startswith("http://127.0.0.1:")
        assert len(processes(mark)) > 1
        child.send_signal(signal.SIGKILL)
    await_none(mark)


def test_self_judge_whose_server_does_not_start_is_unavailable(
    policy: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies = [sys.executable, "-c", "raise SystemExit('there is no memory')"]
    monkeypatch.setitem(server.COMMANDS, "transformers", lambda serving: (dies, {}))
    with (
        pytest.raises(
            JudgeUnavailable,
            match=r"judge self: the server exited: there is no memory \(its output: .*serve-\d+\.log\)",
        ),
        serving_policy(policy, LIMITS, EndpointConfig(), scratch=tmp_path),
    ):
        pass


def test_self_judge_that_is_stopped_while_its_server_starts_leaves_none(
    policy: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop:
        def began(self, round: str, stage: str) -> None: ...

        def advanced(self, done: int, total: int, text: str) -> None:
            raise RoundStopped("somebody said so")

        def ended(self, round: str, stage: str, seconds: float, *, already_done: bool) -> None: ...

    mark = str(tmp_path)
    monkeypatch.setenv(MARK, mark)
    starts_for_ever = [sys.executable, "-c", "import time; time.sleep(600)"]
    monkeypatch.setitem(server.COMMANDS, "transformers", lambda serving: (starts_for_ever, {}))
    with (
        progress.reporting_to(Stop()),
        pytest.raises(RoundStopped),
        serving_policy(policy, LIMITS, EndpointConfig(), scratch=tmp_path),
    ):
        pass
    await_none(mark)


@pytest.mark.parametrize(("engine", "output"), [("vllm", "json_schema"), ("transformers", "text")])
def test_self_judge_keeps_the_limits_of_asking_and_takes_the_servers_place_and_form(
    engine: str, output: str, policy: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_judge, "served", not_served)
    monkeypatch.setattr(self_judge, "engine_for", lambda model: engine)
    with serving_policy(policy, LIMITS, EndpointConfig(max_calls=7, concurrency=2), scratch=tmp_path) as endpoint:
        assert (endpoint.max_calls, endpoint.concurrency, endpoint.output) == (7, 2, output)
        assert endpoint.model == f"policy-{policy.digest[:16]}"


def test_self_judge_is_checked_before_a_campaign_and_follows_its_wording(monkeypatch: pytest.MonkeyPatch) -> None:
    check_judge(JudgeConfig(kind="self"))
    assert judge_digest(JudgeConfig(kind="self")) != judge_digest(JudgeConfig(kind="self", prompt="concise"))
    with pytest.raises(ValueError, match=r"judge.prompt = nowhere.md"):
        check_judge(JudgeConfig(kind="self", prompt="nowhere.md"))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(ValueError, match=r"transformers\[serving\]"):
        check_judge(JudgeConfig(kind="self"))


def test_self_judge_outside_of_a_campaign_is_refused() -> None:
    with pytest.raises(
        ValueError, match="kind self asks a campaign's policy: use kind: llm with your own endpoint outside a campaign"
    ):
        load_judge(JudgeConfig(kind="self"), JudgeContext(Path("unused")))
