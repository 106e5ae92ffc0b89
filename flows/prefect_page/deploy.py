"""`ratchet deploy`: the work pool, the deployments of a prefect.yaml, and the automations around them. Idempotent."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import yaml
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import WorkerStatus
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.settings import temporary_settings

from components.artifacts import read_json, write_json
from components.campaign.state import RUNS_VARIABLE
from components.records import ServiceFailed
from flows.prefect_page.automations import automations
from flows.prefect_page.deployed import ID_VARIABLE, STORE_VARIABLE, ensure_runs_id
from flows.prefect_page.edited import Edited, merged
from flows.servers.key import PrefectApi, explaining_refusal

POOL, FIRST_LIMIT = "ratchet", 1
LAST_DEPLOYED = "deployed.json"
"""File in `runs/.services`: by server, deployment and field, the digest of what the file said when it was deployed."""
WEBHOOK_VARIABLE, WEBHOOK_BLOCK = "RATCHET_WEBHOOK", "ratchet-webhook"


class Deployed(NamedTuple):
    """What `deploy` did."""

    names: list[str]
    """The deployments, as `flow/deployment`."""
    kept: list[str]
    """What stays as somebody set it on the page, a line per deployment that has something."""


def ensure_work_pool(api: PrefectApi) -> None:
    """Create the process work pool, with a limit of one flow run, if it does not exist."""
    with _client(api) as client, suppress(ObjectAlreadyExists):
        _create_pool(client, FIRST_LIMIT)


def _create_pool(client: SyncPrefectClient, limit: int) -> None:
    client.create_work_pool(WorkPoolCreate(name=POOL, type="process", concurrency_limit=limit))


def _set_limit(client: SyncPrefectClient, edited: Edited, limit: int) -> None:
    """Create the work pool if it does not exist; set its limit, unless a person has set another."""
    try:
        present = client.read_work_pool(POOL).concurrency_limit
    except ObjectNotFound:
        _create_pool(client, limit)
        present = limit
    # `ratchet up` makes the pool, with a limit that nobody chose.
    chosen = edited.choose("concurrency_limit", limit, present, if_unknown=present != FIRST_LIMIT)
    if chosen != present:
        client.update_work_pool(POOL, WorkPoolUpdate(concurrency_limit=chosen))


def worker_is_online(api: PrefectApi, name: str) -> bool:
    """Return whether the worker of a name polls the pool."""
    with _client(api) as client:
        workers = client.read_workers_for_work_pool(POOL)
        return any(worker.name == name and worker.status == WorkerStatus.ONLINE for worker in workers)


def deploy(api: PrefectApi, file: Path, runs: Path) -> Deployed:
    """Create or update the work pool, the deployments and the automations on a Prefect server.

    What a person set on the page since the last time stays.

    Args:
        api: Prefect's API.
        file: A prefect.yaml, such as the one in `conf`.
        runs: Directory that the flow runs write to and work in; created if it does not exist.

    Raises:
        ValueError: The file cannot be used.
        ServiceFailed: Prefect refused it; the message ends with Prefect's output.
    """
    content = _read(file)
    environment = {**os.environ, RUNS_VARIABLE: str(runs), ID_VARIABLE: ensure_runs_id(runs)}
    record = runs / ".services" / LAST_DEPLOYED
    last = read_json(record) if record.exists() else {}
    before = last.get(api.url)
    with _client(api) as client:
        pool = Edited(before and before.get(POOL, {}), environment)
        _set_limit(client, pool, content["definitions"]["concurrency_limit"])
        server = {deployment.name: deployment for deployment in client.read_deployments()}
    edited = {POOL: pool}
    entries = []
    for entry in content["deployments"]:
        name = entry["name"]
        edited[name] = Edited(before.get(name, {}) if before and name in server else None, environment)
        entries.append(merged(with_store(entry), server.get(name), edited[name]))
    _run_prefect(api, content | {"deployments": entries}, environment)
    said = {name: each.said for name, each in edited.items()}
    record.parent.mkdir(mode=0o700, exist_ok=True)
    write_json(record, last | {api.url: (before or {}) | said})
    with _client(api) as client:
        _ensure_automations(client)
        flows = {flow.id: flow.name for flow in client.read_flows()}
        names = sorted(
            f"{flows[deployment.flow_id]}/{deployment.name}"
            for deployment in client.read_deployments()
            if deployment.name in edited
        )
    return Deployed(names, [f"{name}: {', '.join(each.kept)}" for name, each in edited.items() if each.kept])


def with_store(entry: dict[str, Any]) -> dict[str, Any]:
    """Return a deployment whose runs record where MLFLOW_TRACKING_URI points now, if it is set.

    Raises:
        ValueError: The address holds a password, which every reader of the Prefect page would see.
    """
    store = os.environ.get(STORE_VARIABLE)
    if not store:
        return entry
    if "@" in store.partition("://")[2].partition("/")[0]:
        raise ValueError(
            f"{STORE_VARIABLE} holds a password, and deployments show it on the Prefect page: take it out of the "
            "address, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD where the worker is started"
        )
    entry = deepcopy(entry)
    variables = entry.setdefault("work_pool", {}).setdefault("job_variables", {})
    variables["env"] = {STORE_VARIABLE: store} | (variables.get("env") or {})
    return entry


def _run_prefect(api: PrefectApi, content: dict[str, Any], environment: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory(prefix="ratchet-deploy-") as folder:
        file = Path(folder) / "prefect.yaml"
        file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
        settings = {**environment, **api.environment(), "DO_NOT_TRACK": "true", "NO_COLOR": "1"}
        done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ServiceFailed(f"prefect deploy failed: {' '.join((done.stdout + done.stderr).split())[-500:]}")


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
    for entry in content["deployments"]:
        if any("slug" not in schedule for schedule in entry.get("schedules") or []):
            raise ValueError(
                f"{file}: a schedule of deployment {entry.get('name')} has no slug: add one, such as `slug: nightly`, "
                "so that it is known again"
            )
    return content


def _ensure_automations(client: SyncPrefectClient) -> None:
    webhook = None
    if os.environ.get(WEBHOOK_VARIABLE):
        block = Webhook(url=os.environ[WEBHOOK_VARIABLE], headers={"Content-Type": "application/json"})
        saved = block.save(WEBHOOK_BLOCK, overwrite=True)
        assert isinstance(saved, UUID)
        webhook = saved
    for automation in automations(webhook):
        known = client.read_automations_by_name(automation.name)
        if not known:
            client.create_automation(automation)
        elif _content(known[0]) != _content(automation):
            # Only then: Prefect forgets which runs it waits for, and one that has died already would run for ever.
            client.update_automation(known[0].id, automation.model_copy(update={"enabled": known[0].enabled}))


def _content(automation: AutomationCore) -> Any:
    """Return what an automation does, without the ids that the server gives."""

    def without_ids(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without_ids(item) for key, item in value.items() if key != "id"}
        return [without_ids(item) for item in value] if isinstance(value, list) else value

    return without_ids(automation.model_dump(mode="json", include={"name", "description", "trigger", "actions"}))


@contextmanager
def _client(api: PrefectApi) -> Iterator[SyncPrefectClient]:
    with explaining_refusal(api.url), temporary_settings(api.settings()), get_client(sync_client=True) as client:
        yield client
