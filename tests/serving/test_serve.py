"""`ratchet serve`: the real command, transformers' real server, real HTTP."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch
from typer.testing import CliRunner

from components.artifacts import write_json
from components.campaign.models import model_of_round
from components.generation.sampler import sample
from components.generation.sampling_params import SamplingParams
from components.models import vllm
from components.models.loading import load_policy, load_tokenizer
from components.models.tokens import ChatTokenizer
from components.records import ModelRef
from components.runtime.ports import free_port
from components.serving.engines import COMMANDS, DOOR, engine_for, pick_engine
from components.serving.plan import curl_line, example_request, key_file, model_id, plan_serving
from components.serving.server import served
from flows.cli import app

Make = Callable[..., Path]
QUESTION = [{"role": "user", "content": "My kettle arrived broken. The order is #5301."}]
MAX_TOKENS = 24


@contextlib.contextmanager
def serving(runs: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Run `ratchet serve` as a user would; yield it and its output until it was ready, or until its end."""
    environment = {**os.environ, "RATCHET_RUNS": str(runs), "COLUMNS": "80"}
    # A shell that runs the tests in its background has them, and so their children, ignore Ctrl-C.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "flows.cli", "serve", *arguments]
    options: dict[str, Any] = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
        "cwd": Path(__file__).parents[2],
    }
    with subprocess.Popen(command, env=environment, **options) as child:
        assert child.stdout is not None
        lines: list[str] = []
        try:
            for line in child.stdout:
                lines.append(line.rstrip("\n"))
                if line.startswith("Ctrl-C"):
                    break
            yield child, lines
        finally:
            child.kill()


def processes_of(runs: Path) -> list[str]:
    """Command lines of the processes that were started for these campaigns and still run."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.environ().get("RATCHET_RUNS") == str(runs) and process.pid != os.getpid():
                found.append(" ".join(process.cmdline()))
    return found


def await_no_process_of(runs: Path) -> None:
    deadline = time.monotonic() + 20
    while (left := processes_of(runs)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def ask(port: int, directory: Path, **more: Any) -> httpx.Response:
    body = {"model": "served", "messages": QUESTION, "temperature": 0.0, "max_tokens": MAX_TOKENS, **more}
    headers = bearer(key_file(directory).read_text().strip())
    return httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, headers=headers, timeout=60)


def assert_locked(address: str, key: str, *open_paths: str) -> None:
    """Check that every route of a server but its health, and the page of the front, needs the key."""
    described = httpx.get(f"{address}/openapi.json", headers=bearer(key), timeout=30).json()["paths"]
    routes = [(method.upper(), path) for path, methods in described.items() for method in methods]
    assert {"/v1/chat/completions", "/health"} <= set(described)
    for method, path in [*routes, ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/")]:
        for headers in ({}, bearer("guessed"), {"Authorization": key}, {"X-Api-Key": key}):
            code = httpx.request(method, f"{address}{path}", headers=headers, json={}, timeout=30).status_code
            assert code == (200 if path in ("/health", *open_paths) else 401), (method, path, headers)


def own_greedy_answer(directory: Path, round: int) -> str:
    """The answer of this project's own sampler that may only take the most likely token."""
    ref = model_of_round(directory, round)
    model, tokenizer = load_policy(ref, dtype=torch.float32, device=torch.device("cpu")), load_tokenizer(ref)
    law = SamplingParams(
        temperature=1.0,
        top_p=1.0,
        top_k=1,
        max_new_tokens=MAX_TOKENS,
        stop_ids=ChatTokenizer(tokenizer).stop_ids,
    )
    prompt = ChatTokenizer(tokenizer).prompt_ids(QUESTION)
    (sampled,) = sample(
        model, [prompt], seeds=[[0]], law=law, pad_id=tokenizer.pad_token_id, batch_size=1, on_batch=lambda _: None
    )
    return tokenizer.decode(sampled.token_ids, skip_special_tokens=True)


def test_serve_answers_whole_and_streamed_as_our_own_model_and_ends_with_ctrl_c(
    runs: Path, make_campaign: Make
) -> None:
    directory, port = make_campaign(), free_port()
    with serving(runs, "served", "--port", str(port), "--engine", "transformers") as (child, lines):
        assert child.poll() is None, lines
        told = "\n".join(lines)
        assert f"http://127.0.0.1:{port}/v1" in told
        assert "the start model of served" in told
        key = key_file(directory).read_text().strip()
        listed = httpx.get(f"http://127.0.0.1:{port}/v1/models", headers=bearer(key), timeout=30).json()
        assert [model["id"] for model in listed["data"]] == ["served"]

        own = own_greedy_answer(directory, 0)
        assert own
        assert ask(port, directory).json()["choices"][0]["message"]["content"] == own
        events = [
            line.removeprefix("data: ")
            for line in ask(port, directory, stream=True).text.splitlines()
            if line.startswith("data: {")
        ]
        assert len(events) > 3
        assert "".join(json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events) == own

        assert key_file(directory).stat().st_mode & 0o777 == 0o600
        assert key not in told
        assert not [line for line in processes_of(runs) if key in line]
        assert_locked(f"http://127.0.0.1:{port}", key, "/")

        (curl,) = (line.removeprefix("try").strip() for line in lines if line.startswith("try"))
        answered = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, timeout=60, check=True)
        assert json.loads(answered.stdout)["choices"][0]["message"]["content"]

        child.send_signal(signal.SIGINT)
        assert child.wait(30) == 0
    await_no_process_of(runs)


def test_serve_adapter_champion_answers_by_its_adapter_and_ends_with_a_killed_parent(
    runs: Path, make_campaign: Make
) -> None:
    directory, port = make_campaign("full", "adapter"), free_port()
    own = [own_greedy_answer(directory, number) for number in range(3)]
    assert len(set(own)) == 3
    with serving(runs, "served", "--port", str(port), "--engine", "transformers") as (child, lines):
        assert child.poll() is None, lines
        assert "round 2 of served" in lines[0]
        assert ask(port, directory).json()["choices"][0]["message"]["content"] == own[2]
        child.kill()
    await_no_process_of(runs)
    with serving(runs, "served", "--round", "1", "--port", str(port), "--engine", "transformers") as (child, lines):
        assert child.poll() is None, lines
        assert ask(port, directory).json()["choices"][0]["message"]["content"] == own[1]


def test_serve_server_that_dies_at_its_start_is_one_line_with_its_last_words(runs: Path, make_campaign: Make) -> None:
    directory, port = make_campaign("full"), free_port()
    settings = directory / "round-001/dpo_train/model/config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"hidden_size": 7}))
    with serving(runs, "served", "--port", str(port), "--engine", "transformers") as (child, lines):
        assert child.wait(60) == 1
    assert len(lines) == 2, lines
    assert lines[1].startswith("ratchet: the server exited: ")
    assert f"serve-{port}.log" in lines[1]
    await_no_process_of(runs)


def told_and_refused(*arguments: str) -> str:
    told = CliRunner().invoke(app, ["serve", *arguments])
    assert told.exit_code == 2, told.output
    assert told.output.startswith("ratchet: ")
    assert told.output.count("\n") == 1, told.output
    return told.output


def test_serve_wrong_input_is_refused_in_one_line(make_campaign: Make) -> None:
    directory = make_campaign("adapter", "full")
    assert "campaign other does not exist in" in told_and_refused("other")
    assert "no finished round 7: choose one from 0 (the start model) to 2" in told_and_refused("served", "--round", "7")
    with listened_port() as port:
        assert f"port {port} is already in use" in told_and_refused("served", "--port", str(port))
    (directory / "round-002/dpo_train/model/model.safetensors").unlink()
    assert "the weights of round 2 are missing" in told_and_refused("served")
    (directory / "round-001/dpo_train/train.json").unlink()
    assert "round 1 of campaign served has no weights" in told_and_refused("served", "--round", "1")


@contextlib.contextmanager
def listened_port() -> Iterator[int]:
    """A port on which somebody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_serve_engine_that_is_not_installed_is_refused_with_the_remedy(
    make_campaign: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_campaign()
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    assert "pip install vllm" in told_and_refused("served", "--engine", "vllm")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert "pip install 'transformers[serving]'" in told_and_refused("served")


# Stands for vLLM, which needs a GPU: shows what it was started with, adds the middleware by its import path as vLLM
# does, and answers on a route that vLLM's own key does not cover.
RECORDER = """#!{python}
import fastapi, importlib, json, os, pathlib, sys, uvicorn
pathlib.Path("{record}").write_text(json.dumps(sys.argv[1:]))
app = fastapi.FastAPI()
app.get("/health")(lambda: True)
app.post("/v1/chat/completions")(lambda: os.environ["VLLM_API_KEY"])
app.post("/invocations")(lambda: True)
module, _, name = sys.argv[sys.argv.index("--middleware") + 1].rpartition(".")
app.add_middleware(getattr(importlib.import_module(module), name))
host, port = (sys.argv[sys.argv.index(option) + 1] for option in ("--host", "--port"))
uvicorn.run(app, host=host, port=int(port), log_level="error")
"""


def test_serve_auto_takes_vllm_where_it_is_installed_and_names_the_adapter(
    runs: Path, make_campaign: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = make_campaign("full", "adapter")
    (tmp_path / "bin").mkdir()
    command, record = tmp_path / "bin" / "vllm", tmp_path / "arguments.json"
    command.write_text(RECORDER.format(python=sys.executable, record=record))
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    assert pick_engine("auto") == "vllm"
    port = free_port()
    common = ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    common += ["--middleware", "ratchet_door.KeyRequired"]
    plan = plan_serving("served", round=1, port=port)
    with served(plan, "vllm"):
        address = f"http://127.0.0.1:{port}"
        assert_locked(address, plan.key)
        assert httpx.post(f"{address}/invocations", headers=bearer(plan.key)).json() is True
        assert httpx.post(f"{address}/v1/chat/completions", headers=bearer(plan.key)).json() == plan.key
        weights = str(directory / "round-001/dpo_train/model")
        assert json.loads(record.read_text()) == ["serve", weights, "--served-model-name", "served", *common]
    with served(plan_serving("served", round=None, port=port), "vllm"):
        base, adapter = model_of_round(directory, 0).base, directory / "round-002/dpo_train/adapter"
        lora = ["--enable-lora", "--max-lora-rank", "8", "--lora-modules", f"served={adapter}"]
        assert json.loads(record.read_text()) == ["serve", base, "--served-model-name", "served-start", *lora, *common]


def test_serve_on_all_addresses_takes_the_key_of_the_environment(
    runs: Path, make_campaign: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, port = make_campaign("full"), free_port()
    monkeypatch.setenv("RATCHET_SERVE_KEY", "a-key-of-our-own")
    (tmp_path / "vllm").write_text(RECORDER.format(python=sys.executable, record=tmp_path / "arguments.json"))
    (tmp_path / "vllm").chmod(0o755)
    monkeypatch.setattr(vllm, "executable", lambda: tmp_path / "vllm")
    plan = plan_serving("served", round=1, port=port, host="0.0.0.0")
    assert plan.address == f"http://{socket.gethostname()}:{port}/v1"
    assert not key_file(directory).exists()
    assert 'echo "Authorization: Bearer $RATCHET_SERVE_KEY" | curl' in curl_line(plan)
    with served(plan, "vllm"):
        other = f"http://127.0.0.2:{port}"  # an address that a server on 127.0.0.1 does not have
        assert httpx.post(f"{other}/invocations").status_code == 401
        assert httpx.post(f"{other}/invocations", headers=bearer("a-key-of-our-own")).status_code == 200


@pytest.mark.parametrize("key", ["short", "sixteen characters", "sixteen-char\u00e4cters"])
def test_serve_key_that_can_be_guessed_or_not_be_sent_is_refused(
    key: str, make_campaign: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_campaign()
    monkeypatch.setenv("RATCHET_SERVE_KEY", key)
    told = told_and_refused("served")
    assert "RATCHET_SERVE_KEY must be at least 16 printable ASCII characters without spaces" in told
    assert key not in told


def test_serve_address_of_another_machine_is_refused(make_campaign: Make) -> None:
    make_campaign()
    assert "--host 192.0.2.1 --port" in told_and_refused("served", "--host", "192.0.2.1")
    assert "0.0.0.0 for all of them" in told_and_refused("served", "--host", "nowhere.invalid")


def test_door_needs_nothing_but_the_standard_library() -> None:
    # vLLM imports it in its own environment; -S hides all installed packages.
    command = [sys.executable, "-S", "-c", "import ratchet_door; ratchet_door.KeyRequired"]
    subprocess.run(command, env={"PYTHONPATH": str(DOOR)}, check=True, cwd="/")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"num_virtual_tokens": 8},
            r"round 1 trained virtual tokens, which `ratchet serve` does not support: load .*/adapter with peft's",
        ),
        ({"r": 8, "use_dora": True}, "vLLM does not support DoRA adapters: choose --engine transformers"),
    ],
)
def test_serve_adapter_that_a_server_does_not_take_says_what_does(
    settings: dict[str, Any], told: str, runs: Path, make_campaign: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = make_campaign("adapter")
    monkeypatch.setattr(vllm, "executable", lambda: Path("vllm"))
    write_json(directory / "round-001/dpo_train/adapter/adapter_config.json", settings)
    with pytest.raises(ValueError, match=told), served(plan_serving("served", round=1, port=free_port()), "vllm"):
        pass


@pytest.mark.parametrize(
    ("settings", "engine"),
    [(None, "vllm"), ({"r": 8}, "vllm"), ({"r": 8, "use_dora": True}, "transformers"), ({"r": 1024}, "transformers")],
)
def test_engine_for_a_model_is_one_that_takes_its_adapter(
    settings: dict[str, Any] | None, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "executable", lambda: Path("vllm"))
    if settings is not None:
        write_json(tmp_path / "adapter_config.json", settings)
    ref = ModelRef(round=1, base="base", adapter=None if settings is None else tmp_path, base_digest="b", digest="d")
    assert engine_for(ref) == engine


@pytest.mark.parametrize(
    ("campaign", "expected"),
    [("demo", "demo"), ("a_b.c-1", "a_b.c-1"), ("a--b", "a-b"), ("a..b-", "a.b"), ("x.git", "x")],
)
def test_model_id_is_the_campaigns_name_as_far_as_a_hub_name_may_be(campaign: str, expected: str) -> None:
    from huggingface_hub.utils import validate_repo_id

    assert model_id(campaign) == expected
    validate_repo_id(model_id(campaign))


def test_serve_gives_the_server_the_chat_template_arguments_and_the_example_the_system_prompt(
    runs: Path, make_campaign: Make, starter_directory: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(starter_directory, model)
    # Answers something else if the argument is missing: the template then ends otherwise.
    template = (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").write_text("{% if not polite %}{{ 'order ' }}{% endif %}" + template)
    arguments, port = {"polite": True, "tools": None}, free_port()
    directory = make_campaign(model=str(model), chat_template_arguments=arguments, system_prompt="my kettle")
    plan = plan_serving("served", round=None, port=port)
    assert plan.template_arguments == {"polite": True}, "tools come with each request"
    assert example_request(plan)["messages"][0] == {"role": "system", "content": "my kettle"}
    tokenizer = load_tokenizer(model_of_round(directory, 0))
    own = ChatTokenizer(tokenizer, {"polite": True}).prompt_ids(QUESTION)
    assert own != ChatTokenizer(tokenizer).prompt_ids(QUESTION)
    with served(plan, "transformers"):
        usage = ask(port, directory).json()["usage"]
    assert usage["prompt_tokens"] == len(own)


def test_serve_gives_vllm_the_chat_template_arguments(
    runs: Path, make_campaign: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_campaign(chat_template_arguments={"enable_thinking": False})
    monkeypatch.setattr(vllm, "executable", lambda: Path("vllm"))
    command, _ = COMMANDS["vllm"](plan_serving("served", round=None, port=free_port()))
    assert command[-2:] == ["--default-chat-template-kwargs", '{"enable_thinking": false}']


def test_serve_canary_answers_by_both_rounds_and_says_which(runs: Path, make_campaign: Make) -> None:
    directory, port = make_campaign("full", "full"), free_port()
    own = {number: own_greedy_answer(directory, number) for number in (1, 2)}
    assert own[1] != own[2]
    options = ["--port", str(port), "--engine", "transformers", "--canary", "0.5"]
    with serving(runs, "served", *options) as (child, lines):
        assert child.poll() is None, lines
        assert "and round 1 for 50% of the conversations" in lines[1]
        key = key_file(directory).read_text().strip()
        answers = set()
        for conversation in map(str, range(12)):
            body = {"model": "served", "messages": QUESTION, "max_tokens": MAX_TOKENS, "temperature": 0.0}
            headers = bearer(key) | {"X-Conversation-Id": conversation}
            sent = httpx.post(
                f"http://127.0.0.1:{port}/v1/chat/completions", json=body, headers=headers, timeout=60
            ).json()
            text = sent["choices"][0]["message"]["content"]
            answers.add(text)
            thumb = {
                "client_id": conversation,
                "conversation_id": conversation,
                "completion_id": sent["id"],
                "messages": QUESTION,
                "response": text,
                "thumb": "up" if text == own[1] else "down",
                "consent": True,
            }
            kept = httpx.post(f"http://127.0.0.1:{port}/feedback", json=thumb, headers=bearer(key), timeout=30)
            assert kept.json()["served"], kept.text
        assert answers == set(own.values())
        child.send_signal(signal.SIGINT)
        assert child.wait(30) == 0
    await_no_process_of(runs)
    told = CliRunner().invoke(app, ["feedback", "served"]).output
    assert "challenger minus champion: +1.000" in told, told
    assert "--canary 1.5 must be above 0 and below 1" in told_and_refused("served", "--canary", "1.5")
    assert "--url chat.example.org is not a URL" in told_and_refused("served", "--url", "chat.example.org")
    assert "must be a finished round and not the one that is served" in told_and_refused(
        "served", "--canary", "0.1", "--canary-round", "2"
    )
    assert "add --canary 0.1" in told_and_refused("served", "--canary-round", "1")
