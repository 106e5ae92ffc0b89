"""Answers with one of a campaign's models over an OpenAI-compatible endpoint on the loopback interface.

Starts vLLM, or transformers' own server, as a child process and owns nothing of how they generate. Loads no model itself.
"""

import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx

from components.artifacts import read_json, write_json
from components.campaign import campaign_directory, known_state, model_of_round
from components.launch import server_process
from components.model_directory import SNAPSHOT_FILES, check_model_directory
from components.ports import is_free
from components.records import ModelRef

HOST = "127.0.0.1"
# Freed memory that goes back to the system comes back as a page fault at every tensor: several times slower on virtual machines.
KEEP_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "8589934592", "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_TOP_PAD_": "268435456"}
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM takes for --max-lora-rank; an adapter fits under the next larger one."""
Engine = Literal["vllm", "transformers"]


class ServerFailed(Exception):
    """The server ended by itself; the message holds the last line that it wrote and the place of its log."""


@dataclass(frozen=True)
class Serving:
    """What to serve, and where."""

    directory: Path
    """runs/<campaign>."""
    model: ModelRef
    model_id: str
    """The name under which the endpoint lists and accepts the model."""
    dtype: str
    """Precision, as in the campaign's config."""
    port: int

    @property
    def address(self) -> str:
        """The endpoint's base address, as OpenAI clients take it."""
        return f"http://{HOST}:{self.port}/v1"

    @property
    def log(self) -> Path:
        """Where the server's output goes."""
        return self.directory / f"serve-{self.port}.log"


def plan_serving(campaign: str, *, round: int | None, port: int) -> Serving:
    """Finds the weights of a campaign's champion, or of one of its rounds, and checks that they can be served.

    Args:
        campaign: Name of the campaign.
        round: A finished round; 0 is the start model, None the champion.
        port: TCP port of the endpoint.

    Raises:
        ValueError: There is no such campaign or round, its weights are gone, or the port is taken.
    """
    state, directory = known_state(campaign), campaign_directory(campaign)
    number = state.champion.round if round is None else round
    if number and number not in {record.round for record in state.rounds}:
        raise ValueError(f"campaign {campaign} has no finished round {number}: choose one from 0 (the start model) to {state.last_round}")
    model = _model_on_disk(directory, number)
    if not is_free(port):
        raise ValueError(f"port {port} is taken: choose another with --port")
    dtype = read_json(directory / "config.json")["policy"]["dtype"]
    return Serving(directory, model, model_id(campaign), dtype, port)


def _model_on_disk(directory: Path, round: int) -> ModelRef:
    try:
        model = model_of_round(directory, round)
    except FileNotFoundError as error:
        raise ValueError(f"the weights of round {round} are gone ({error.filename} is missing): choose another with --round") from None
    for place in (Path(model.base), model.adapter):
        if place is not None and not any(place.glob("*.safetensors")):
            raise ValueError(f"the weights of round {round} are gone ({place} holds none): choose another with --round")
    check_model_directory(Path(model.base))
    return model


def model_id(campaign: str) -> str:
    """The campaign's name, where need be without what the hub forbids in a model's name: a doubled or final dash or dot, and `.git`."""
    return re.sub(r"--+|\.\.+", lambda run: run[0][0], campaign).removesuffix(".git").rstrip("-.")


def pick_engine(name: str) -> Engine:
    """Turns `auto` into vLLM where its command is installed, else into transformers.

    Raises:
        ValueError: The engine is not installed; names the command that installs it.
    """
    if name == "vllm" or (name == "auto" and _vllm() is not None):
        if _vllm() is None:
            raise ValueError("vLLM is not installed: `pip install vllm`, best in an environment of its own that is on the PATH")
        return "vllm"
    missing = [package for package in ("openai", "fastapi", "uvicorn") if importlib.util.find_spec(package) is None]
    if missing:
        raise ValueError(f"transformers serves only where {', '.join(missing)} is installed: `pip install 'transformers[serving]'`")
    return "transformers"


def _vllm() -> str | None:
    beside_python = str(Path(sys.executable).parent)
    return shutil.which("vllm", path=os.pathsep.join([beside_python, os.environ.get("PATH", "")]))


@contextlib.contextmanager
def served(serving: Serving, engine: Engine) -> Iterator[Callable[[], None]]:
    """Starts the server, waits until it answers, and yields a function that waits until it ends; leaving the block ends it.

    Raises:
        ServerFailed: It ended by itself, at its start or later.
    """
    command, environment = COMMANDS[engine](serving)
    environment = {**os.environ, **KEEP_FREED_MEMORY, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", **environment}
    with (
        serving.log.open("w") as log,
        # A relative model name is looked up in the current directory first, so that must be one that holds no models.
        server_process(command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=_layout(serving)) as child,
    ):
        _wait_until_healthy(serving, child)

        def until_it_ends() -> None:
            child.wait()
            raise _failure(serving)

        yield until_it_ends


def _wait_until_healthy(serving: Serving, child: subprocess.Popen[str]) -> None:
    """Waits for as long as the server lives: how long a model takes to load depends on its size and the disk."""
    while child.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"http://{HOST}:{serving.port}/health", timeout=5).is_success:
                return
        time.sleep(0.2)
    raise _failure(serving)


def _failure(serving: Serving) -> ServerFailed:
    lines = [line.strip() for line in serving.log.read_text(errors="replace").splitlines() if line.strip()]
    return ServerFailed(f"the server ended: {lines[-1] if lines else 'it wrote nothing'} (its output: {serving.log})")


def _transformers_command(serving: Serving) -> tuple[list[str], dict[str, str]]:
    """The command, and its environment.

    transformers' server knows models by hub name or path only. So the model is laid out as the one entry of a hub cache: the endpoint
    then lists and accepts it under its own short name.
    """
    _lay_out(serving)
    options = ["--host", HOST, "--port", str(serving.port), "--dtype", serving.dtype]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", serving.model_id, *options]
    return command, {"HF_HUB_CACHE": str(_layout(serving))}


def _layout(serving: Serving) -> Path:
    place = serving.directory / ".serving" / f"round-{serving.model.round:03d}"
    place.mkdir(parents=True, exist_ok=True)
    return place


def _lay_out(serving: Serving) -> None:
    """Writes a hub cache of links to the model's files. An adapter stands beside its base's configuration and names the base's place."""
    model, cache = serving.model, _layout(serving)
    entry, revision = cache / f"models--{serving.model_id}", model.digest[:40]
    shutil.rmtree(entry, ignore_errors=True)
    snapshot = entry / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (entry / "refs").mkdir()
    (entry / "refs" / "main").write_text(revision)
    for file in _files(Path(model.base)):
        if model.adapter is None or file.suffix != ".safetensors":
            (snapshot / file.name).symlink_to(file)
    if model.adapter is not None:
        for file in _files(model.adapter):
            (snapshot / file.name).unlink(missing_ok=True)
            (snapshot / file.name).symlink_to(file)
        (snapshot / "adapter_config.json").unlink()
        write_json(snapshot / "adapter_config.json", _adapter_config(model.adapter) | {"base_model_name_or_path": model.base})


def _files(directory: Path) -> list[Path]:
    return sorted(file.absolute() for pattern in SNAPSHOT_FILES for file in directory.glob(pattern))


def _adapter_config(adapter: Path) -> dict[str, object]:
    return read_json(adapter / "adapter_config.json")


def _vllm_command(serving: Serving) -> tuple[list[str], dict[str, str]]:
    """The command, and its environment; an adapter takes the campaign's name, and its base that name with `-start`."""
    model, executable = serving.model, _vllm()
    assert executable is not None
    options = ["--host", HOST, "--port", str(serving.port), "--dtype", serving.dtype]
    if model.adapter is None:
        return [executable, "serve", model.base, "--served-model-name", serving.model_id, *options], {}
    rank = _adapter_config(model.adapter)["r"]
    assert isinstance(rank, int)
    fitting = next((allowed for allowed in VLLM_RANKS if allowed >= rank), None)
    if fitting is None:
        raise ValueError(f"vLLM takes adapters up to rank {VLLM_RANKS[-1]}, not {rank}: choose --engine transformers")
    adapter = ["--enable-lora", "--max-lora-rank", str(fitting), "--lora-modules", f"{serving.model_id}={model.adapter}"]
    return [executable, "serve", model.base, "--served-model-name", f"{serving.model_id}-start", *adapter, *options], {}


COMMANDS: dict[Engine, Callable[[Serving], tuple[list[str], dict[str, str]]]] = {
    "vllm": _vllm_command,
    "transformers": _transformers_command,
}


def example_request(serving: Serving) -> dict[str, object]:
    """A chat request in the campaign's own words: its shortest held-out prompt, answered within the campaign's limit."""
    config = read_json(serving.directory / "config.json")
    return {
        "model": serving.model_id,
        "messages": _shortest_prompt(serving.directory),
        "max_tokens": config["policy"]["max_response_tokens"],
    }


def _shortest_prompt(directory: Path) -> list[dict[str, str]]:
    import pyarrow.parquet as pq

    from components.tokens import parse_messages

    table = pq.read_table(directory / "round-000" / "start" / "held_out_prompts.parquet", columns=["messages"])
    return parse_messages(min(table.column("messages").to_pylist(), key=lambda text: (len(text), text)))


def curl_line(serving: Serving) -> str:
    """A shell line that asks the endpoint."""
    body = json.dumps(example_request(serving), ensure_ascii=False).replace("'", "'\\''")
    return f"curl -s {serving.address}/chat/completions -H 'Content-Type: application/json' -d '{body}'"
