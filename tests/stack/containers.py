"""The stack of docker/compose.yaml while it runs: its containers, its Prefect API, its campaigns."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

ROOT = Path(__file__).parents[2]
COMPOSE_FILES = (ROOT / "docker" / "compose.yaml", ROOT / "tests" / "stack" / "one_thread.yaml")
ENGINE = os.environ.get("STACK_ENGINE", "docker")
COMPOSE = os.environ.get("STACK_COMPOSE", "docker compose").split()
PROJECT = "ratchet-stack-test"
SERVICES = ("postgres", "prefect", "mlflow", "labelling", "worker")
START_SECONDS, ROUND_SECONDS = 600, 1500
SETTINGS = [
    "prompts.num_held_out=96",
    "evaluation.start_prompts=16",
    "validation.max_quarantine_share=0.95",
    "validation.min_pairs=1",
    "training.learning_rate=0.0003",
    "training.epochs=2",
    "training.pairs_per_step=4",
    "training.micro_batch_pairs=4",
    "training.checkpoint_every=3",
    "gate.max_unfinished_increase=1.0",
]
"""What makes the demo small: a round takes seconds."""


class Stack:
    """The services of the compose file on ports of the loopback interface."""

    def __init__(self, secrets: Path, *, prefect_port: int, mlflow_port: int, label_port: int) -> None:
        self.secrets = secrets
        self.prefect = f"http://127.0.0.1:{prefect_port}"
        self.mlflow = f"http://127.0.0.1:{mlflow_port}"
        self.labelling = f"http://127.0.0.1:{label_port}"
        self.environment = {
            **os.environ,
            "SECRETS": str(secrets),
            "PREFECT_PORT": str(prefect_port),
            "PREFECT_PAGE": self.prefect,
            "MLFLOW_PORT": str(mlflow_port),
            "LABEL_PORT": str(label_port),
        }

    def compose(self, *arguments: str) -> str:
        """Run a command of compose and return its output."""
        files = [part for file in COMPOSE_FILES for part in ("--file", str(file))]
        command = [*COMPOSE, "--project-name", PROJECT, *files, "--profile", "cpu", *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def container(self, service: str) -> str:
        """Return the id of a service's container, running or not."""
        labels = {"com.docker.compose.project": PROJECT, "com.docker.compose.service": service}
        filters = [part for name, value in labels.items() for part in ("--filter", f"label={name}={value}")]
        (identity,) = engine("ps", "--all", "--quiet", *filters).split()
        return identity

    def inspect(self, service: str) -> dict[str, Any]:
        """Return what the engine knows of a service's container."""
        return dict(json.loads(engine("inspect", self.container(service)))[0])

    def execute(self, service: str, *command: str) -> str:
        """Run a command in a service's container and return its output."""
        return engine("exec", self.container(service), *command)

    def logs(self, service: str) -> str:
        """Return the last lines of a service's output."""
        command = [ENGINE, "logs", "--tail", "40", self.container(service)]
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout

    def is_healthy(self, service: str) -> bool:
        """Run a service's own health check: podman without systemd does not run it by itself."""
        command = self.inspect(service)["Config"]["Healthcheck"]["Test"]
        assert command[0] == "CMD", command
        checked = subprocess.run([ENGINE, "exec", self.container(service), *command[1:]], capture_output=True)
        return checked.returncode == 0

    def wait_until_healthy(self, *, seconds: float) -> None:
        """Wait until every service is healthy; the worker is when it has put the deployments on the page."""
        for service in SERVICES:
            wait_until(
                lambda name=service: self.is_healthy(name), f"{service} to be healthy", seconds, self.logs, service
            )

    def kill(self, service: str) -> None:
        """Kill a container's first process, and so all of its processes, as a crash or a lack of memory would.

        The engine's own `kill` counts as a person's wish: it does not start the container again.
        """
        os.kill(self.inspect(service)["State"]["Pid"], signal.SIGKILL)

    @property
    def key(self) -> str:
        """Prefect's key."""
        return (self.secrets / "prefect-key").read_text().strip()

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Ask Prefect's API until it answers: GET, or POST with a body that may be sent twice."""
        deadline = time.monotonic() + 180
        while True:
            with contextlib.suppress(httpx.TransportError):
                auth = httpx.BasicAuth(*self.key.split(":"))
                method = "GET" if body is None else "POST"
                answer = httpx.request(method, f"{self.prefect}/api{path}", json=body, auth=auth, timeout=30)
                if not answer.is_server_error:
                    assert answer.is_success, f"{path}: {answer.text}"
                    return answer.json()
            assert time.monotonic() < deadline, f"{path}: Prefect does not answer"
            time.sleep(1)

    def start(self, campaign: str, *, num_rounds: int, settings: Sequence[str] = ()) -> str:
        """Start the deployment `campaign`, as the page's form does, and return the flow run's id."""
        deployment = self.ask("/deployments/name/iterative-dpo/campaign")["id"]
        what = {"preset": "demo", "campaign": campaign, "num_rounds": num_rounds}
        form = {"what": what, "data": {"prompts_per_round": 64}, "other": [*SETTINGS, *settings]}
        asked = {"parameters": form, "idempotency_key": uuid4().hex}
        return str(self.ask(f"/deployments/{deployment}/create_flow_run", asked)["id"])

    def wait_until_final(self, flow_run: str, *, seconds: float) -> dict[str, Any]:
        """Wait until a flow run has ended, however it ended, and return its state."""
        ends = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        wait_until(
            lambda: self.ask(f"/flow_runs/{flow_run}")["state"]["type"] in ends,
            "the run's end",
            seconds,
            self.logs,
            "worker",
        )
        return dict(self.ask(f"/flow_runs/{flow_run}")["state"])

    def finish(self, campaign: str, flow_run: str, *, num_rounds: int, seconds: float) -> list[str]:
        """Wait for a run, start the campaign again if it did not complete, and return how each start ended."""
        ended = []
        for _ in range(4):
            state = self.wait_until_final(flow_run, seconds=seconds)
            ended.append(f"{state['name']}: {state['message']}")
            if state["type"] == "COMPLETED":
                return ended
            flow_run = self.start(campaign, num_rounds=num_rounds)
        raise AssertionError(f"{campaign} did not complete: {ended}")

    def campaign(self, name: str) -> dict[str, Any]:
        """Return a campaign's campaign.json."""
        return dict(json.loads(self.execute("worker", "cat", f"/runs/{name}/campaign.json")))

    def is_training(self, campaign: str) -> bool:
        """Return whether a campaign's first round has written a checkpoint."""
        found = ["find", f"/runs/{campaign}/round-001/checkpoints", "-name", "step-*"]
        command = [ENGINE, "exec", self.container("worker"), *found]
        return bool(subprocess.run(command, capture_output=True, check=False).stdout)


def engine(*arguments: str) -> str:
    """Run a command of the container engine and return its output."""
    done = subprocess.run([ENGINE, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{ENGINE} {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def wait_until(true: Callable[[], bool], what: str, seconds: float, detail: Callable[[str], str], service: str) -> None:
    """Wait until something is true; fail with a service's output after some seconds."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}: {detail(service)}"
        time.sleep(0.5)
