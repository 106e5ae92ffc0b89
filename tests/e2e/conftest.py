"""The servers as a user starts them, a browser in front of them, and a receiver for notifications.

All on the loopback interface.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest
import yaml
from playwright.sync_api import Browser, Page, expect, sync_playwright

from components.config.shipped import conf_path
from components.runtime.ports import free_port
from flows.servers.key import PrefectApi
from flows.servers.supervisord import Supervisord

ROOT = Path(__file__).parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)
SHOTS = ROOT / "runs" / "e2e"


@dataclass
class Site:
    """A machine after `ratchet up` and `ratchet deploy`."""

    place: Path
    prefect: str
    mlflow: str
    environment: dict[str, str]
    told: list[dict[str, Any]] = field(default_factory=list)
    """Requests that the webhook received."""

    @property
    def runs(self) -> Path:
        return self.place / "runs"

    @property
    def labelling(self) -> str:
        return f"http://127.0.0.1:{self.environment['RATCHET_LABEL_PORT']}"

    @property
    def key(self) -> str:
        """Return what a user copies from the file that `ratchet up` names."""
        return (self.runs / ".services" / "prefect-key").read_text().strip()

    @property
    def api(self) -> PrefectApi:
        return PrefectApi(f"{self.prefect}/api", self.key)

    def ratchet(self, *arguments: str, code: int = 0) -> str:
        """Run a command as a user would and return its output."""
        command = [sys.executable, "-m", "flows.cli", *arguments]
        done = subprocess.run(
            command, env=self.environment, cwd=self.place, capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == code, f"{arguments} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def deploy(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Deploy the shipped file with a change."""
        content = yaml.safe_load(conf_path("prefect.yaml").read_text())
        for entry in content["deployments"]:
            entry["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] = "30"
        change(content)
        path = self.place / "prefect.yaml"
        path.write_text(yaml.safe_dump(content))
        self.ratchet("deploy", "--file", str(path))

    @contextlib.contextmanager
    def make_worker(self) -> Iterator[None]:
        """Replace the worker of `ratchet up` by one of `make worker`, which knows the servers but no RATCHET_RUNS."""
        environment = {name: value for name, value in self.environment.items() if name != "RATCHET_RUNS"}
        environment |= self.api.environment() | {"MLFLOW_TRACKING_URI": self.mlflow}
        command = ["make", "-o", ".venv/run.ready", f"BIN={Path(sys.executable).parent}", "worker"]  # installs nothing
        supervisord = Supervisord(self.runs / ".services")
        supervisord._control("stop", "worker")
        with (self.place / "make-worker.log").open("w") as log:
            make = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
            try:
                yield
            finally:
                worker = [psutil.Process(make.pid), *psutil.Process(make.pid).children(recursive=True)]
                gone, alive = [], worker[:1]  # make passes it on
                # Prefect's worker can lose a signal that comes while a run of its ends, so it is asked again; one that
                # hangs in its own teardown would take the runs of the tests behind it.
                for ask in ("terminate", "terminate", "terminate", "kill"):
                    for process in alive:
                        with contextlib.suppress(psutil.NoSuchProcess):
                            getattr(process, ask)()
                    gone, alive = psutil.wait_procs(worker, timeout=20)
                    if not alive:
                        break
                make.wait()
                supervisord.ensure("worker")
        assert gone, (self.place / "make-worker.log").read_text()
        assert not alive

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Ask Prefect's API: GET, or POST with a body that may be sent twice."""
        url, auth = f"{self.prefect}/api{path}", httpx.BasicAuth(*self.key.split(":"))
        for _ in range(10):
            with contextlib.suppress(httpx.TimeoutException):
                answer = (
                    httpx.get(url, timeout=60, auth=auth)
                    if body is None
                    else httpx.post(url, json=body, timeout=60, auth=auth)
                )
                if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                    break
            time.sleep(1)  # two cores are busy, or SQLite is being written to; Prefect's own client is as patient
        else:
            raise AssertionError(f"{path}: Prefect's server is too busy")
        assert answer.is_success, f"{path}: {answer.text}"
        return answer.json() if answer.content else None

    def start(self, deployment: str, **parameters: Any) -> str:
        """Start a run as a program would and return its id."""
        found = self.ask(f"/deployments/name/iterative-dpo/{deployment}")
        asked = {"parameters": parameters, "idempotency_key": uuid4().hex}
        return str(self.ask(f"/deployments/{found['id']}/create_flow_run", asked)["id"])

    def newest_run(self, flow: str = "iterative-dpo") -> dict[str, Any]:
        asked = {"sort": "EXPECTED_START_TIME_DESC", "limit": 1, "flows": {"name": {"any_": [flow]}}}
        return dict(self.ask("/flow_runs/filter", asked)[0])

    def state(self, flow_run: str) -> dict[str, Any]:
        return dict(self.ask(f"/flow_runs/{flow_run}")["state"])

    def wait_for(self, flow_run: str, *states: str, seconds: float = 120) -> dict[str, Any]:
        """Wait until a run is in one of the states and return the state."""
        wait_until(
            lambda: self.state(flow_run)["name"] in states,
            f"run {flow_run} to be {states}",
            seconds,
            lambda: self.state(flow_run),
        )
        return self.state(flow_run)

    def wait_for_training(self, campaign: str) -> None:
        """Wait until a campaign's first round has a checkpoint."""
        checkpoints = self.runs / campaign / "round-001" / "checkpoints"
        wait_until(lambda: any(checkpoints.glob("*/step-*")), f"a checkpoint of {campaign}", 120)

    def processes(self) -> list[psutil.Process]:
        """Return every process that works on this site's runs."""
        return [process for process in psutil.process_iter() if runs_of(process) == str(self.runs)]

    def engines(self) -> list[psutil.Process]:
        """Return the processes in which a worker runs flows."""
        return [process for process in self.processes() if "prefect.engine" in process.cmdline()]


def runs_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("RATCHET_RUNS")
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None


def wait_until(true: Callable[[], bool], what: str, seconds: float, detail: Callable[[], Any] = lambda: "") -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}: {detail()}"
        time.sleep(0.5)


@pytest.fixture(name="wait_until")
def wait_until_fixture() -> Callable[..., None]:
    """Wait until something becomes true; fail after some seconds."""
    return wait_until


@pytest.fixture(scope="session")
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Address of a receiver, and the requests that it received."""
    got: list[dict[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", free_port()), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", got
        server.shutdown()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, webhook: tuple[str, list[dict[str, Any]]]) -> Iterator[Site]:
    """The servers, up and deployed; at the end, no process of theirs is left."""
    place = tmp_path_factory.mktemp("site")
    ports = {f"RATCHET_{name}_PORT": str(free_port()) for name in ("PREFECT", "MLFLOW", "LABEL")}
    address, got = webhook
    environment = {
        **os.environ,
        **ports,
        "RATCHET_RUNS": str(place / "runs"),
        "PREFECT_HOME": str(place / "prefect"),
        "RATCHET_WEBHOOK": address,
        "PYTHONPATH": str(ROOT),
    }
    prefect, mlflow, _ = (f"http://127.0.0.1:{port}" for port in ports.values())
    site = Site(place, prefect, mlflow, environment, got)
    try:
        site.ratchet("up")
        site.ratchet("deploy")
        yield site
    finally:
        site.ratchet("down")
    wait_until(
        lambda: not site.processes(),
        "every process to end",
        20,
        lambda: [process.cmdline() for process in site.processes()],
    )


@pytest.fixture(scope="session")
def configs(site: Site, starter_directory: Path) -> dict[str, str]:
    """Two campaigns' YAML files: `quick` takes seconds a round, `slow` trains for most of a minute."""
    quick = {
        "campaign": "quick",
        "num_rounds": 2,
        "policy": {
            "model": str(starter_directory),
            "dtype": "float32",
            "max_prompt_tokens": 64,
            "max_response_tokens": 40,
        },
        "prompts": {"per_round": 48, "num_held_out": 64},
        "generation": {"samples_per_prompt": 4, "batch_size": 48},
        "validation": {"max_quarantine_share": 0.95, "min_pairs": 1},
        "training": {"learning_rate": 3e-4, "epochs": 4, "pairs_per_step": 8, "micro_batch_pairs": 8},
        "gate": {"max_unfinished_increase": 1.0},
    }
    slow = quick | {
        "campaign": "slow",
        "num_rounds": 1,
        "training": {
            "learning_rate": 1e-6,
            "epochs": 60,
            "pairs_per_step": 8,
            "micro_batch_pairs": 8,
            "checkpoint_every": 10,
        },
    }
    paths = {}
    for config in (quick, slow):
        path = site.place / f"{config['campaign']}.yaml"
        path.write_text(yaml.safe_dump(config))
        paths[str(config["campaign"])] = str(path)
    return paths


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert found is not None, f"none of {', '.join(BROWSERS)} is installed: on Debian `apt-get install chromium`"
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=found, args=QUIET.split())


def enter_key(page: Page, key: str) -> None:
    page.locator("input[type=password]").fill(key)
    page.get_by_role("button", name="Login").click()


@pytest.fixture(scope="session")
def sign_in() -> Callable[[Page, str], None]:
    """Type a key into the page that asks for it."""
    return enter_key


@pytest.fixture(scope="session")
def signed_in(site: Site, browser: Browser) -> Any:
    """A browser's stored state after its user has signed in on the Prefect page."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    page.goto(site.prefect)
    expect(page.get_by_role("button", name="Login")).to_be_visible(timeout=30_000)
    shoot(page, "sign-in")
    enter_key(page, site.key)
    expect(page.get_by_role("button", name="Login")).to_be_hidden(timeout=30_000)
    shoot(page, "signed-in")
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture
def page(browser: Browser, signed_in: Any, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A signed-in page per test; its last picture is kept under runs/e2e."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000}, storage_state=signed_in)
    context.set_default_timeout(30_000)
    page = context.new_page()
    yield page
    shoot(page, re.sub(r"\W+", "-", request.node.name))
    context.close()


def shoot(page: Page, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.wait_for_timeout(700)  # pages fade in
    page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


@pytest.fixture
def picture(page: Page) -> Callable[[str], None]:
    """Keep a screenshot under runs/e2e."""
    return lambda name: shoot(page, name)
