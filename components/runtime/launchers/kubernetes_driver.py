"""Run a command on each pod of a Kubernetes Job, and print what the pods print.

A second process deletes the Job and its Service when this one has ended, even by SIGKILL; if their pod is gone as a
whole, the cluster deletes them, because the pod owns them.
"""

import contextlib
import json
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from urllib3.exceptions import HTTPError

from components.config import LauncherConfig
from components.runtime.launchers.kubernetes_job import CONTAINER, LABEL, TOKEN, job_manifest, service_manifest
from components.runtime.launchers.kubernetes_logs import ANSWER_SECONDS, PodLogs, say
from components.runtime.nodes import marked_line

try:
    from kubernetes.client import BatchV1Api, CoreV1Api
    from kubernetes.client.exceptions import ApiException, ForbiddenException, NotFoundException, ServiceException
    from kubernetes.config import ConfigException
    from kubernetes.config.incluster_config import InClusterConfigLoader
except ImportError:
    sys.exit('launcher.kind kubernetes needs its client: pip install "dpo-ratchet[kubernetes]"')

LOOK_SECONDS, WAITING_SECONDS, DELETION_SECONDS = 1.0, 60.0, 60.0


def main(arguments: list[str], *, account: Path = Path(TOKEN)) -> int:
    """Run a command on each node; see `kubernetes_job.command` for the arguments.

    Args:
        arguments: The launcher section as JSON, the number of nodes, and the command of a node.
        account: Directory with the files of the pod's service account.

    Returns:
        0 if the command returned 0 on all nodes.
    """
    settings, nodes, *on_each_node = arguments
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        InClusterConfigLoader(str(account / "token"), str(account / "ca.crt")).load_and_set()
        namespace = (account / "namespace").read_text().strip()
        return _drive(namespace, LauncherConfig.model_validate_json(settings), int(nodes), on_each_node, asked)
    except (ConfigException, FileNotFoundError) as error:
        sys.exit(f"launcher.kind kubernetes: this is not a pod with the token of a service account: {error}")
    except ForbiddenException as error:
        sys.exit(f"launcher.kind kubernetes: {_message(error)}: give the pod's service account this right")
    except ApiException as error:
        sys.exit(f"launcher.kind kubernetes: {_message(error)}")
    except HTTPError as error:
        sys.exit(f"launcher.kind kubernetes: the API server does not answer: {error}")


def _drive(
    namespace: str, launcher: LauncherConfig, nodes: int, on_each_node: list[str], asked: threading.Event
) -> int:
    name, core = f"ratchet-{secrets.token_hex(5)}", CoreV1Api()
    pod = _read(core.read_namespaced_pod, os.environ["HOSTNAME"], namespace)
    with PodLogs(core, namespace) as logs, _deleted_at_the_end(namespace, name):
        _read(core.create_namespaced_service, namespace, service_manifest(name, pod))
        job = job_manifest(name, pod, launcher, nodes=nodes, on_each_node=on_each_node)
        _read(BatchV1Api().create_namespaced_job, namespace, job)
        code = _watched(namespace, name, nodes, logs, asked)
        logs.drain()
        return code


def _watched(namespace: str, name: str, nodes: int, logs: PodLogs, asked: threading.Event) -> int:
    """Return the first exit code that is not 0, or 0 when all pods have ended; say why others do not begin."""
    known: dict[str, dict[str, Any]] = {}
    said = time.monotonic()
    while not asked.wait(LOOK_SECONDS):
        try:
            listed = _read(CoreV1Api().list_namespaced_pod, namespace, label_selector=f"{LABEL}={name}")["items"]
        except (ServiceException, HTTPError):
            continue  # a server that restarts; nodes that are silent for too long are the parent's matter
        pods = {pod["metadata"]["name"]: pod for pod in listed}
        vanished, known = [pod for pod in known if pod not in pods], known | pods
        for pod in vanished:
            say(f"node {_node(known[pod])}: pod {pod} is gone{_cause(known[pod], ': ')}")
            say(marked_line("lost", _node(known[pod])))
            return 1
        codes = {pod: _exit_code(pods[pod]) for pod in pods}
        for pod, code in codes.items():
            logs.follow(pods[pod], has_ended=code is not None)
            if code:
                say(f"node {_node(pods[pod])}: pod {pod} failed{_cause(pods[pod], ': ')}")
                if code > 128:  # a signal
                    say(marked_line("lost", _node(pods[pod])))
                return code
        if list(codes.values()).count(0) == nodes:
            return 0
        if time.monotonic() - said > WAITING_SECONDS:
            said = time.monotonic()
            if len(pods) < nodes:
                say(f"{len(pods)} of {nodes} pods exist: `kubectl describe job {name}` may say why")
            for pod in pods:
                if pods[pod]["status"]["phase"] == "Pending":
                    say(f"pod {pod} is pending{_waiting(pods[pod], ': ')}")
    return 128 + signal.SIGTERM


@contextlib.contextmanager
def _deleted_at_the_end(namespace: str, name: str) -> Iterator[None]:
    """Delete Job and Service at the end of the block or of this process: then a process without a part in it acts."""
    reader, writer = os.pipe()
    keeper = os.fork()
    if keeper == 0:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        os.close(writer)
        os.read(reader, 1)
        try:
            _delete(namespace, name)
        finally:
            os._exit(0)
    os.close(reader)
    try:
        yield
    finally:
        os.close(writer)
        os.waitpid(keeper, 0)


def _delete(namespace: str, name: str) -> None:
    """Delete both, and wait until the Job's pods have ended."""
    deadline = time.monotonic() + DELETION_SECONDS
    while time.monotonic() < deadline:
        try:
            with contextlib.suppress(NotFoundException):
                _read(CoreV1Api().delete_namespaced_service, name, namespace)
            _read(BatchV1Api().delete_namespaced_job, name, namespace, propagation_policy="Foreground")
        except NotFoundException:
            return
        except (ApiException, HTTPError):
            pass
        time.sleep(0.5)
    say(f"job {name} is still there: `kubectl delete job {name}` removes it, and so does the end of this pod")


def _read(call: Callable[..., Any], *arguments: Any, **options: Any) -> dict[str, Any]:
    """Return what the API server answers."""
    answer = call(*arguments, _preload_content=False, _request_timeout=ANSWER_SECONDS, **options)
    return dict(json.loads(answer.data))


def _state(pod: dict[str, Any], kind: str) -> dict[str, Any]:
    containers = pod["status"].get("containerStatuses", [])
    return next((own["state"].get(kind, {}) for own in containers if own["name"] == CONTAINER), {})


def _exit_code(pod: dict[str, Any]) -> int | None:
    """Return the code with which a pod's command has ended; None if it has not."""
    code = _state(pod, "terminated").get("exitCode")
    return 1 if code is None and pod["status"]["phase"] == "Failed" else code


def _node(pod: dict[str, Any]) -> str:
    return str(pod["spec"].get("nodeName", "(none yet)"))


def _cause(pod: dict[str, Any], before: str) -> str:
    """Return what ended a pod: the cluster, or its container."""
    disruptions = [item for item in pod["status"].get("conditions", []) if item["type"] == "DisruptionTarget"]
    ended = _state(pod, "terminated")
    code = {"message": f"exit code {ended['exitCode']}"} if ended else {}
    return _reason([*disruptions, pod["status"], ended | code], before)


def _waiting(pod: dict[str, Any], before: str) -> str:
    """Return what a pod waits for: its image, or a machine."""
    unmet = [item for item in pod["status"].get("conditions", []) if item["status"] == "False"]
    return _reason([_state(pod, "waiting"), *unmet], before)


def _reason(places: list[dict[str, Any]], before: str) -> str:
    for place in places:
        if words := [place[key] for key in ("reason", "message") if place.get(key)]:
            return before + ": ".join(words)
    return ""


def _message(error: ApiException) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return f"the API server answered {error.status} {error.reason}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
