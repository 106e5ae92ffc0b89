"""`ratchet deploy`: the work pool, the deployments of a prefect.yaml, and the automations around them. Idempotent."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import WorkerStatus
from prefect.exceptions import ObjectNotFound
from prefect.settings import temporary_settings

from components.campaign.state import RUNS_VARIABLE
from components.records import ServiceFailed
from flows.prefect_page.automations import automations
from flows.servers.key import PrefectApi, explaining_refusal

POOL = "ratchet"
WEBHOOK_VARIABLE, WEBHOOK_BLOCK = "RATCHET_WEBHOOK", "ratchet-webhook"


def ensure_work_pool(api: PrefectApi, *, limit: int | None = None) -> None:
    """Create the process work pool if it does not exist, and set its limit.

    Args:
        api: Prefect's API.
        limit: Flow runs at the same time. None leaves an existing pool as it is, and creates a new one with a limit of
            one.
    """
    with _client(api) as client:
        try:
            pool = client.read_work_pool(POOL)
        except ObjectNotFound:
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process", concurrency_limit=limit or 1))
            return
        if limit is not None and pool.concurrency_limit != limit:
            client.update_work_pool(POOL, WorkPoolUpdate(concurrency_limit=limit))


def worker_is_online(api: PrefectApi, name: str) -> bool:
    """Return whether the worker of a name polls the pool."""
    with _client(api) as client:
        workers = client.read_workers_for_work_pool(POOL)
        return any(worker.name == name and worker.status == WorkerStatus.ONLINE for worker in workers)


def deploy(api: PrefectApi, file: Path, runs: Path) -> list[str]:
    """Create or update the work pool, the deployments and the automations on a Prefect server.

    Args:
        api: Prefect's API.
        file: A prefect.yaml, such as the one in `conf`.
        runs: Directory that the flow runs write to and work in; created if it does not exist.

    Returns:
        Names of the deployments, as `flow/deployment`.

    Raises:
        ValueError: The file cannot be used.
        ServiceFailed: Prefect refused it; the message ends with Prefect's output.
    """
    content = _read(file)
    ensure_work_pool(api, limit=content["definitions"]["concurrency_limit"])
    runs.mkdir(parents=True, exist_ok=True)
    with _client(api) as client:
        active = {
            (run.name, schedule.slug): schedule.active
            for run in client.read_deployments()
            for schedule in run.schedules
        }
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
    environment = {**os.environ, **api.environment(), "DO_NOT_TRACK": "true", "NO_COLOR": "1", RUNS_VARIABLE: str(runs)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ServiceFailed(f"prefect deploy failed: {' '.join((done.stdout + done.stderr).split())[-500:]}")
    with _client(api) as client:
        _keep_switched(client, active)
        _ensure_automations(client)
        named = {entry["name"] for entry in content["deployments"]}
        flows = {flow.id: flow.name for flow in client.read_flows()}
        return sorted(
            f"{flows[deployment.flow_id]}/{deployment.name}"
            for deployment in client.read_deployments()
            if deployment.name in named
        )


def _read(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read: {' '.join(str(error).split())}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not content.get("deployments"):
        raise ValueError(f"{file} does not define any deployments: start from a copy of conf/prefect.yaml")
    limit = (content.get("definitions") or {}).get("concurrency_limit")
    if not isinstance(limit, int) or limit < 1:
        raise ValueError(
            f"{file}: definitions.concurrency_limit = {limit!r} must be a whole number of at least 1: "
            "how many flow runs may run at the same time"
        )
    return content


def _keep_switched(client: SyncPrefectClient, active: dict[tuple[str, str | None], bool]) -> None:
    # `prefect deploy` replaces what a person switched on the page by the file's `active`.
    for deployment in client.read_deployments():
        for schedule in deployment.schedules:
            before = active.get((deployment.name, schedule.slug))
            if before is not None and before != schedule.active:
                client.update_deployment_schedule(deployment.id, schedule.id, active=before)


def _ensure_automations(client: SyncPrefectClient) -> None:
    webhook = None
    if os.environ.get(WEBHOOK_VARIABLE):
        block = Webhook(url=os.environ[WEBHOOK_VARIABLE], headers={"Content-Type": "application/json"})
        saved = block.save(WEBHOOK_BLOCK, overwrite=True)
        assert isinstance(saved, UUID)
        webhook = saved
    for automation in automations(webhook):
        known = client.read_automations_by_name(automation.name)
        if known:
            client.update_automation(known[0].id, automation.model_copy(update={"enabled": known[0].enabled}))
        else:
            client.create_automation(automation)


@contextmanager
def _client(api: PrefectApi) -> Iterator[SyncPrefectClient]:
    with explaining_refusal(api.url), temporary_settings(api.settings()), get_client(sync_client=True) as client:
        yield client
