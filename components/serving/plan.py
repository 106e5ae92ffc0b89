"""Plan what to serve: a campaign's model, the path of its weights, its name, its address and its key.

Starts nothing, loads no model.
"""

import errno
import json
import os
import re
import secrets
import shlex
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from components.artifacts import read_json
from components.campaign.models import model_of_round
from components.campaign.state import campaign_directory, known_state
from components.data.messages import Message, Messages, parse_messages, without_tools
from components.models.directory import check_model_directory
from components.records import ModelRef
from components.runtime.addresses import LOOPBACK
from components.runtime.ports import check_bindable, free_port
from components.runtime.secret_file import ensure_secret
from components.serving.door.ratchet_door import KEY_VARIABLE

WILDCARDS = {"0.0.0.0": LOOPBACK, "::": "::1"}
"""By address that means all of this machine's, the one under which this machine reaches itself."""
SHORTEST_KEY = 16


@dataclass(frozen=True)
class Serving:
    """A model to serve, with its name and port."""

    directory: Path
    """runs/<campaign>."""
    model: ModelRef
    model_id: str
    """The name under which the endpoint lists and accepts the model."""
    dtype: str
    """Precision, from the campaign's config."""
    port: int
    key: str = field(repr=False)
    """The key that every request must bear."""
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the chat template that the server gives it with every request; tools come with a request."""
    host: str = LOOPBACK
    """The address to listen on."""
    log_name: str = ""
    """Name of the file of the server's output, within the campaign's directory; empty names it by the port."""

    @property
    def address(self) -> str:
        """The endpoint's base address, as OpenAI clients take it."""
        return f"{self._at(socket.gethostname() if self.host in WILDCARDS else self.host)}/v1"

    @property
    def health(self) -> str:
        """The page that says whether the server is ready, as this machine reaches it."""
        return f"{self._at(WILDCARDS.get(self.host, self.host))}/health"

    def _at(self, host: str) -> str:
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def log(self) -> Path:
        """File of the server's output."""
        return self.directory / (self.log_name or f"serve-{self.port}.log")

    @property
    def site(self) -> str:
        """The address of the pages."""
        return self.address.removesuffix("v1")


def plan_serving(campaign: str, *, round: int | None, port: int, host: str = LOOPBACK) -> Serving:
    """Find the weights of a campaign's champion, or of one of its rounds, and check that they can be served.

    Args:
        campaign: Name of the campaign.
        round: A finished round; 0 is the start model, None the champion.
        port: TCP port of the endpoint.
        host: Address to listen on: one of this machine, or 0.0.0.0 for all.

    Raises:
        ValueError: The campaign or round does not exist, its weights are missing, the key cannot be used, or the server
            could not listen there.
    """
    state, directory = known_state(campaign), campaign_directory(campaign)
    number = state.champion.round if round is None else round
    if number and number not in {record.round for record in state.rounds}:
        raise ValueError(
            f"campaign {campaign} has no finished round {number}: "
            f"choose one from 0 (the start model) to {state.last_round}"
        )
    model = _model_on_disk(directory, number)
    _check_address(host, port)
    policy = read_json(directory / "config.json")["policy"]
    # Campaigns of versions before 0.2 have no arguments.
    arguments = {name: value for name, value in policy.get("chat_template_arguments", {}).items() if name != "tools"}
    return Serving(directory, model, model_id(campaign), policy["dtype"], port, serving_key(directory), arguments, host)


def plan_challenger(campaign: str, *, champion: Serving, round: int | None) -> Serving:
    """Find the weights of the model that answers a share of the conversations, and check that they can be served.

    Args:
        campaign: Name of the campaign.
        champion: The model that answers the others.
        round: A finished round; None is the newest one that is not the champion.

    Raises:
        ValueError: There is no such round, or its weights are missing.
    """
    rounds = [record.round for record in known_state(campaign).rounds]
    others = [number for number in rounds if number != champion.model.round]
    if round is None and not others:
        raise ValueError(f"campaign {campaign} has no finished round but its champion: leave --canary out")
    number = max(others) if round is None else round
    if number not in others:
        raise ValueError(
            f"--canary-round {number} must be a finished round and not the one that is served "
            f"(round {champion.model.round}): choose one of {', '.join(map(str, others)) or 'none'}"
        )
    model = _model_on_disk(champion.directory, number)
    return replace(champion, model=model, log_name=f"serve-{champion.port}-canary.log")


def engine_serving(serving: Serving) -> Serving:
    """Return the plan of the engine behind the front: on a port of the loopback interface, with a key of its own."""
    return replace(serving, port=free_port(), host=LOOPBACK, key=secrets.token_urlsafe(32), log_name=serving.log.name)


def _check_address(host: str, port: int) -> None:
    try:
        check_bindable(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ValueError(f"port {port} is already in use: choose another with --port") from None
        raise ValueError(
            f"--host {host} --port {port} cannot be listened on ({error.strerror}): use an address of this machine, "
            "or 0.0.0.0 for all of them, and a port that you may open"
        ) from None


def key_file(directory: Path) -> Path:
    """Return the path of the file with a campaign's key.

    Args:
        directory: runs/<campaign>.
    """
    return directory / ".serving" / "key"


def serving_key(directory: Path) -> str:
    """Return RATCHET_SERVE_KEY if it is set, else the key in the campaign's file, which is created if it is missing.

    Args:
        directory: runs/<campaign>.

    Raises:
        ValueError: The key cannot be used.
    """
    key = os.environ.get(KEY_VARIABLE, "")
    if not key:
        try:
            key_file(directory).parent.mkdir(parents=True, exist_ok=True)
            return ensure_secret(key_file(directory), lambda: secrets.token_urlsafe(32))
        except PermissionError:
            raise ValueError(
                f"{key_file(directory)} belongs to another user: set {KEY_VARIABLE} to a key of your own"
            ) from None
    if len(key) < SHORTEST_KEY or not re.fullmatch(r"[!-~]+", key):
        raise ValueError(
            f"{KEY_VARIABLE} must be at least {SHORTEST_KEY} printable ASCII characters without spaces: "
            "unset it to get a random key"
        )
    return key


def _model_on_disk(directory: Path, round: int) -> ModelRef:
    model = model_of_round(directory, round)
    for weights in (Path(model.base), model.adapter):
        if weights is not None and not any(weights.glob("*.safetensors")):
            raise ValueError(
                f"the weights of round {round} are missing: {weights} contains no *.safetensors file; "
                "choose another round with --round"
            )
    check_model_directory(Path(model.base))
    if model.adapter is not None and "num_virtual_tokens" in read_json(model.adapter / "adapter_config.json"):
        raise ValueError(
            f"round {round} trained virtual tokens, which `ratchet serve` does not support: load {model.adapter} with "
            "peft's AutoPeftModelForCausalLM, or choose another round with --round"
        )
    return model


def model_id(campaign: str) -> str:
    """Return the campaign's name without what the hub forbids in a model's name.

    That is a doubled or final dash or dot, and a final `.git`.
    """
    return re.sub(r"--+|\.\.+", lambda run: run[0][0], campaign).removesuffix(".git").rstrip("-.")


def key_place(directory: Path) -> str:
    """Return a shell expression whose value is the key.

    Args:
        directory: runs/<campaign>.
    """
    if os.environ.get(KEY_VARIABLE):
        return f"${KEY_VARIABLE}"
    return f"$(cat {shlex.quote(str(key_file(directory)))})"


def example_request(serving: Serving) -> dict[str, object]:
    """Return a chat request with the campaign's shortest held-out prompt, as the policy read it, and its limits."""
    config = read_json(serving.directory / "config.json")
    policy, stop = config["policy"], config["generation"].get("stop")
    messages, own_tools = without_tools(_shortest_prompt(serving.directory))
    tools = own_tools or policy.get("chat_template_arguments", {}).get("tools")
    return {
        "model": serving.model_id,
        "messages": [_as_sent(message) for message in messages],
        **({"tools": tools} if tools else {}),
        "max_tokens": policy["max_response_tokens"],
        **({"stop": stop} if stop else {}),
    }


def _as_sent(message: Message) -> Message:
    """Return a message as endpoints take it: with the arguments of tool calls as JSON text."""
    if "tool_calls" not in message:
        return message
    functions = [call["function"] for call in message["tool_calls"]]
    texts = [{**function, "arguments": json.dumps(function["arguments"])} for function in functions]
    calls = [{**call, "function": text} for call, text in zip(message["tool_calls"], texts, strict=True)]
    return {**message, "tool_calls": calls}


def _shortest_prompt(directory: Path) -> Messages:
    import pyarrow.parquet as pq

    table = pq.read_table(directory / "round-000" / "start" / "held_out_prompts.parquet", columns=["messages"])
    shortest = min(table.column("messages").to_pylist(), key=lambda text: (len(text), text))
    return parse_messages(shortest)


def curl_line(serving: Serving) -> str:
    """Return a shell line that sends the example request to the endpoint.

    curl reads the key from its input: on its command line, every user of the machine could read it.
    """
    body = json.dumps(example_request(serving), ensure_ascii=False).replace("'", "'\\''")
    key, headers = key_place(serving.directory), "-H @- -H 'Content-Type: application/json'"
    return f"echo \"Authorization: Bearer {key}\" | curl -s {serving.address}/chat/completions {headers} -d '{body}'"
