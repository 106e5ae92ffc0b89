"""A Kubernetes Job as a launcher: one pod per node, each a copy of the pod that starts them.

Knows the manifests and not the API: `kubernetes_driver` is a process of its own, so that a stage's end, however it
comes, ends it.
"""

import os
import socket
import sys
import time
from typing import Any

from components.config import LauncherConfig
from components.runtime.launchers.place import Place

NAME, NAMES, INDEX = "RATCHET_NODE_NAME", "RATCHET_NODE_NAMES", "JOB_COMPLETION_INDEX"
CONTAINER, LABEL, GPU = "node", "app.kubernetes.io/instance", "nvidia.com/gpu"
TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"
OF_THE_POD = (
    "dnsConfig",
    "hostAliases",
    "imagePullSecrets",
    "nodeSelector",
    "priorityClassName",
    "runtimeClassName",
    "schedulerName",
    "securityContext",
    "terminationGracePeriodSeconds",
    "tolerations",
)
OF_THE_CONTAINER = ("image", "imagePullPolicy", "envFrom", "workingDir", "securityContext")
OF_THE_CODE = ("PYTHONPATH", "PYTHONSAFEPATH")
"""Variables of the driver's process that nodes get too; all others are those of the pod."""
ENDED_SECONDS = 600
"""Seconds after which the cluster removes an ended Job that nobody has deleted."""


def command(launcher: LauncherConfig, nodes: int, on_each_node: list[str]) -> list[str]:
    """Return the command that runs another one once on each of several nodes.

    Args:
        launcher: The launcher section.
        nodes: Number of nodes.
        on_each_node: The command of a node.
    """
    driver = [sys.executable, "-m", "components.runtime.launchers.kubernetes_driver"]
    return [*driver, launcher.model_dump_json(), str(nodes), *on_each_node]


def place() -> Place:
    """Return this pod's place in its Job, once the containers of all pods run.

    Pods begin at different times: one may still wait for a machine or for its image, and nodes that have met wait for
    the others for some minutes only. The cluster's DNS knows a pod's name from when its container runs.
    """
    names = os.environ[NAMES].split(",")
    while not all(map(_is_known, names)):
        time.sleep(1.0)
    return Place(int(os.environ[INDEX]), os.environ[NAME], names[0])


def service_manifest(name: str, pod: dict[str, Any]) -> dict[str, Any]:
    """Return the headless Service that gives the pods of a Job stable names.

    Args:
        name: Name of Service and Job.
        pod: The own pod, as the API server describes it.
    """
    spec = {"clusterIP": "None", "selector": {LABEL: name}}
    return {"apiVersion": "v1", "kind": "Service", "metadata": _metadata(name, pod), "spec": spec}


def job_manifest(
    name: str, pod: dict[str, Any], launcher: LauncherConfig, *, nodes: int, on_each_node: list[str]
) -> dict[str, Any]:
    """Return the Job whose pods run a command on different machines, with what the own pod has except its token.

    Args:
        name: Name of Service and Job.
        pod: The own pod, as the API server describes it.
        launcher: The launcher section.
        nodes: Number of pods.
        on_each_node: The command of a node.
    """
    own = _own_container(pod)
    mounts = [mount for mount in own.get("volumeMounts", []) if mount["mountPath"] != TOKEN]
    mounted = {mount["name"] for mount in mounts}
    told: dict[str, dict[str, Any]] = {
        NAMES: {"value": ",".join(f"{name}-{index}.{name}" for index in range(nodes))},
        NAME: {"valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        **{variable: {"value": os.environ[variable]} for variable in OF_THE_CODE if variable in os.environ},
    }
    container = {key: own[key] for key in OF_THE_CONTAINER if key in own} | {
        "name": CONTAINER,
        # The image's entry point, if the own container has it, puts secrets into the environment.
        "command" if "command" in own else "args": on_each_node,
        "env": [entry for entry in own.get("env", []) if entry["name"] not in {INDEX, *told}]
        + [{"name": variable, **value} for variable, value in told.items()],
        "volumeMounts": mounts,
        "resources": _resources(own.get("resources", {}), launcher),
    }
    apart = {"labelSelector": {"matchLabels": {LABEL: name}}, "topologyKey": "kubernetes.io/hostname"}
    affinity = {kind: value for kind, value in pod["spec"].get("affinity", {}).items() if kind == "nodeAffinity"}
    template = {key: pod["spec"][key] for key in OF_THE_POD if key in pod["spec"]} | {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "subdomain": name,
        "affinity": affinity | {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}},
        "containers": [container],
        "volumes": [volume for volume in pod["spec"].get("volumes", []) if volume["name"] in mounted],
    }
    spec = {
        "completionMode": "Indexed",
        "completions": nodes,
        "parallelism": nodes,
        "backoffLimit": 0,
        "ttlSecondsAfterFinished": ENDED_SECONDS,
        "template": {"metadata": {"labels": {LABEL: name}}, "spec": template},
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": _metadata(name, pod), "spec": spec}


def _metadata(name: str, pod: dict[str, Any]) -> dict[str, Any]:
    """Return metadata by which the cluster removes an object together with the own pod."""
    owner = {"apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
    return {"name": name, "labels": {LABEL: name}, "ownerReferences": [owner]}


def _own_container(pod: dict[str, Any]) -> dict[str, Any]:
    """Return the pod's main container: others may have been injected beside it."""
    containers = pod["spec"]["containers"]
    main = pod["metadata"].get("annotations", {}).get("kubectl.kubernetes.io/default-container")
    return next((container for container in containers if container["name"] == main), containers[0])


def _resources(own: dict[str, Any], launcher: LauncherConfig) -> dict[str, Any]:
    requests, limits = ({**own.get(side, {})} for side in ("requests", "limits"))
    requests["cpu"] = str(launcher.cpus_per_node)
    if "cpu" in limits:
        limits["cpu"] = str(launcher.cpus_per_node)
    for side in (requests, limits):
        side.pop(GPU, None)
        if launcher.gpus_per_node:
            side[GPU] = str(launcher.gpus_per_node)
    return {"requests": requests, "limits": limits}


def _is_known(name: str) -> bool:
    try:
        socket.getaddrinfo(name, None)
    except socket.gaierror:
        return False
    return True
