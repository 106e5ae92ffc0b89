"""A stage on several nodes by Kubernetes: the official client and the real driver against a stand-in for a cluster."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from components.config import LauncherConfig
from components.records import PromoteRequest, StageFailed
from components.runtime.launch import STAGES, Placement, Stage, run_stage
from components.runtime.launchers import kubernetes_job
from components.runtime.launchers.registry import LAUNCHERS, Launcher
from components.runtime.node import _ended_with_its_stage
from components.runtime.nodes import marked_line
from components.runtime.ports import free_port
from tests.runtime.kubernetes_stand_in import Cluster
from tests.runtime.test_nodes import assert_nobody_left, own_processes, request, when_begun
from tests.stack.test_kubernetes import VERSIONS, deployed_variables, documents, rendered

MODULE = """
import os, time
import torch, torch.distributed as dist
def run(request, out):
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    (out / f"rank-{{rank}}.txt").write_text(f"{{size}} {{os.environ['RATCHET_NODE_NAME']}}")
    print(f"rank {{rank}} is here")
    {body}
"""
KUBERNETES = LauncherConfig(kind="kubernetes", gpus_per_node=8, cpus_per_node=16)
BOTH = [("services", None), ("jobs", "Foreground")]


def own_pod() -> dict[str, Any]:
    """The pod of a campaign, as the API describes it: the job template's, and what a cluster adds."""
    pod = rendered(**deployed_variables(), gpus=1, start_nodes=True)["spec"]["template"]
    spec = pod["spec"] | {"nodeName": "n0", "enableServiceLinks": True, "serviceAccount": "ratchet-nodes"}
    spec["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    spec["imagePullSecrets"] = [{"name": "registry"}]
    spec["volumes"].append({"name": "kube-api-access-7qhx2", "projected": {"sources": []}})
    (container,) = spec["containers"]
    token = {"name": "kube-api-access-7qhx2", "readOnly": True, "mountPath": kubernetes_job.TOKEN}
    container["volumeMounts"].append(token)
    spec["containers"] = [{"name": "sidecar", "image": "proxy"}, container]
    main = {"kubectl.kubernetes.io/default-container": "prefect-job"}
    return {
        "metadata": {"name": "calm-otter-x", "uid": "uid-own", "annotations": main},
        "spec": spec,
        "status": {"phase": "Running"},
    }


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    port = free_port()
    cluster = Cluster(tmp_path / "account", port, own_pod())
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(port))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HOSTNAME", "calm-otter-x")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.getcwd()}")
    monkeypatch.setitem(
        LAUNCHERS,
        "kubernetes",
        Launcher(lambda *asked: cluster.driver(kubernetes_job.command(*asked)), kubernetes_job.place),
    )
    yield cluster
    cluster.close()


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: Cluster) -> Callable[[str], Path]:
    """Takes the body of a stage that runs on nodes; returns the directory in which its round lies."""
    monkeypatch.setitem(STAGES, "promote", Stage("a_stage_of_pods", PromoteRequest, 1))

    def write(body: str) -> Path:
        (tmp_path / "a_stage_of_pods.py").write_text(MODULE.format(body=body))
        return tmp_path / "round"

    return write


def driver(cluster: Cluster, code: str, *, nodes: int = 2) -> "subprocess.Popen[str]":
    """Start the driver of nodes that run some Python code."""
    command = cluster.driver(kubernetes_job.command(KUBERNETES, nodes, [sys.executable, "-c", code]))
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def when(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def job_of(cluster: Cluster) -> dict[str, Any]:
    service, job = cluster.created
    assert (service["kind"], job["kind"]) == ("Service", "Job")
    return job


def test_two_pods_are_one_world_and_nothing_of_them_stays(
    stage: Callable[[str], Path], cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="components.runtime")
    round = stage("pass")
    manifest = run_stage("promote", request(), round, where=Placement(nodes=2, launcher=KUBERNETES))
    assert set(manifest.files) == {"rank-0.txt", "rank-1.txt"}
    assert {(round / "promote" / name).read_text() for name in manifest.files} == {"2 n1", "2 n2"}
    assert {"node n1 works (1 of 2)", "node n2 works (2 of 2)"} <= set(caplog.messages)
    assert {line[:4] for line in caplog.messages if "is here" in line} == {"[n1]", "[n2]"}
    assert len(cluster.created) == 2
    for created in cluster.created:
        kubernetes_validate.validate(created, VERSIONS[-1], strict=True)
    assert cluster.deleted[:2] == BOTH
    assert not cluster.jobs
    assert not cluster.pods
    assert_nobody_left(round)


def test_lost_pod_is_named_by_its_node_and_its_stage_may_be_tried_again(
    stage: Callable[[str], Path], cluster: Cluster
) -> None:
    round = stage("[dist.barrier() for _ in iter(lambda: time.sleep(0.1), 1)]")
    taint = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager", "message": "no node"}
    when_begun(round, lambda: cluster.lose(1, taint))
    with pytest.raises(StageFailed, match=r"promote failed: lost node n2; last lines: ") as no:
        run_stage("promote", request(), round, where=Placement(nodes=2, launcher=KUBERNETES))
    assert no.value.may_pass
    assert not cluster.jobs
    assert_nobody_left(round)


def test_removed_pod_is_named_with_its_cause(cluster: Cluster) -> None:
    with driver(cluster, "import time; time.sleep(100)") as process:
        when(lambda: len(cluster.pods) == 2)
        cluster.lose(1, {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"})
        output, _ = process.communicate(timeout=60)
    name = job_of(cluster)["metadata"]["name"]
    said, mark = output.splitlines()
    assert said == f"node n2: pod {name}-1-x7k2p is gone: EvictionByEvictionAPI"
    assert mark == marked_line("lost", "n2")
    assert process.returncode == 1
    assert not cluster.jobs


def test_failed_pod_is_named_and_its_last_lines_and_code_are_kept(cluster: Cluster) -> None:
    code = "import os, sys, time; first = os.environ['JOB_COMPLETION_INDEX'] == '0'; print('why', flush=True); "
    with driver(cluster, code + "time.sleep(100) if first else sys.exit(3)") as process:
        output, _ = process.communicate(timeout=60)
    name = job_of(cluster)["metadata"]["name"]
    assert sorted(output.splitlines()) == [f"node n2: pod {name}-1-x7k2p failed: Error: exit code 3", "why", "why"]
    assert process.returncode == 3


def test_lines_come_once_although_streams_break(cluster: Cluster) -> None:
    """The stand-in tells whole seconds, so that lines share their times."""
    cluster.breaks = 3
    code = "import time; [print(n, flush=True) or time.sleep(0.4) for n in range(12)]"
    with driver(cluster, code, nodes=1) as process:
        output, _ = process.communicate(timeout=60)
    assert output.split() == [str(n) for n in range(12)]
    assert process.returncode == 0
    assert cluster.streams >= 4


def test_pods_are_deleted_only_after_their_last_lines_have_come(cluster: Cluster) -> None:
    cluster.delay = 2.5
    with driver(cluster, "print('last words')") as process:
        output, _ = process.communicate(timeout=60)
    assert output == "last words\n" * 2
    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_job_and_service_end_with_the_driver(cluster: Cluster, number: int, tmp_path: Path) -> None:
    with driver(cluster, f"import time; time.sleep(100) # {tmp_path}") as process:
        when(lambda: len(own_processes(tmp_path)) >= 3)  # the driver and two nodes
        when(lambda: all(pod.process is not None for pod in cluster.pods.values()))
        process.send_signal(number)
        process.wait(20)
        when(lambda: not cluster.jobs and not cluster.services)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert cluster.deleted[:2] == BOTH
    assert_nobody_left(tmp_path)


@pytest.mark.parametrize(
    ("verb", "resource"),
    [("get", "pods"), ("create", "services"), ("create", "jobs"), ("list", "pods"), ("get", "pods/log")],
)
def test_missing_right_is_one_line_that_names_it(cluster: Cluster, verb: str, resource: str) -> None:
    cluster.forbidden = {(verb, resource)}
    with driver(cluster, "import time; time.sleep(100)") as process:
        output, _ = process.communicate(timeout=60)
    (line,) = output.splitlines()
    assert f'cannot {verb} resource "{resource}" in API group' in line
    assert line.endswith(": give the pod's service account this right")
    assert process.returncode == 1
    assert not cluster.jobs
    assert not cluster.services


def test_role_has_the_rights_that_the_driver_uses() -> None:
    """The rights whose lack the test above tells, and those to delete."""
    _, role, _ = documents("nodes.yaml")
    rights = {(verb, kind) for rule in role["rules"] for kind in rule["resources"] for verb in rule["verbs"]}
    deleting = {("delete", "jobs"), ("delete", "services")}
    reading = {("get", "pods"), ("list", "pods"), ("get", "pods/log")}
    assert rights == reading | deleting | {("create", "jobs"), ("create", "services")}


def test_pending_pods_say_what_they_wait_for(cluster: Cluster, tmp_path: Path) -> None:
    cluster.unschedulable = {"reason": "Unschedulable", "message": "0/3 nodes are available: insufficient gpus"}
    command = cluster.driver(kubernetes_job.command(KUBERNETES, 2, ["true"]))
    command[2] = f"import components.runtime.launchers.kubernetes_driver as d; d.WAITING_SECONDS = 0.1; {command[2]}"
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = {process.stdout.readline() for _ in range(2)}
        process.terminate()
    name = job_of(cluster)["metadata"]["name"]
    reason = "Unschedulable: 0/3 nodes are available: insufficient gpus"
    assert lines == {f"pod {name}-{index}-x7k2p is pending: {reason}\n" for index in range(2)}
    assert not cluster.jobs


def test_driver_outside_a_pod_says_so(cluster: Cluster) -> None:
    (cluster.account / "token").unlink()
    with driver(cluster, "pass") as process:
        output, _ = process.communicate(timeout=60)
    message = "launcher.kind kubernetes: this is not a pod with the token of a service account"
    assert output == f"{message}: Service token file does not exist.\n"
    assert process.returncode == 1


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("launcher", [KUBERNETES, LauncherConfig(kind="kubernetes")])
def test_job_and_service_match_the_schemas(version: str, launcher: LauncherConfig) -> None:
    job = kubernetes_job.job_manifest("ratchet-1", own_pod(), launcher, nodes=2, on_each_node=["python", "-V"])
    for manifest in (job, kubernetes_job.service_manifest("ratchet-1", own_pod())):
        kubernetes_validate.validate(manifest, version, strict=True)
        owner = {"apiVersion": "v1", "kind": "Pod", "name": "calm-otter-x", "uid": "uid-own"}
        assert manifest["metadata"]["ownerReferences"] == [owner]


def test_pods_are_copies_without_the_token_on_machines_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/code")
    own = own_pod()
    own["spec"]["affinity"] = {"nodeAffinity": {"a": 1}, "podAffinity": {"b": 2}}
    job = kubernetes_job.job_manifest("ratchet-1", own, KUBERNETES, nodes=2, on_each_node=["python", "-V"])
    assert job["spec"].items() >= {"completionMode": "Indexed", "completions": 2, "parallelism": 2}.items()
    spec = job["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    (_, original) = own["spec"]["containers"]
    assert spec["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in spec
    assert kubernetes_job.TOKEN not in json.dumps(job)
    assert "kube-api-access" not in json.dumps(job)
    assert container["args"] == ["python", "-V"]
    assert "command" not in container
    for key in ("image", "envFrom", "workingDir", "securityContext"):
        assert container[key] == original[key]
    assert container["volumeMounts"] == original["volumeMounts"][:-1]
    assert spec["volumes"] == own["spec"]["volumes"][:-1]
    for key in ("securityContext", "tolerations", "imagePullSecrets", "terminationGracePeriodSeconds"):
        assert spec[key] == own["spec"][key]
    assert container["env"][: len(original["env"])] == original["env"]
    assert {"name": "PYTHONPATH", "value": "/code"} in container["env"]
    assert {"name": "RATCHET_NODE_NAMES", "value": "ratchet-1-0.ratchet-1,ratchet-1-1.ratchet-1"} in container["env"]
    memory = original["resources"]["requests"]["memory"]
    assert container["resources"] == {
        "requests": {"cpu": "16", "memory": memory, "nvidia.com/gpu": "8"},
        "limits": {"nvidia.com/gpu": "8"},
    }
    assert spec["affinity"]["nodeAffinity"] == {"a": 1}
    assert spec["affinity"].keys() == {"nodeAffinity", "podAntiAffinity"}
    (apart,) = spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert apart["topologyKey"] == "kubernetes.io/hostname"
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert apart["labelSelector"]["matchLabels"] == labels
    assert kubernetes_job.service_manifest("ratchet-1", own)["spec"]["selector"] == labels


def test_pod_that_replaces_the_entry_point_gives_nodes_a_command_and_limits_of_cpu_follow() -> None:
    own = own_pod()
    own["spec"]["containers"][1] |= {"command": ["ratchet", "run"], "resources": {"limits": {"cpu": "2"}}}
    none = LauncherConfig(kind="kubernetes", cpus_per_node=4)
    job = kubernetes_job.job_manifest("ratchet-1", own, none, nodes=2, on_each_node=["python", "-V"])
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["python", "-V"]
    assert "args" not in container
    assert container["resources"] == {"requests": {"cpu": "4"}, "limits": {"cpu": "4"}}


def test_place_waits_until_all_pods_have_names(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = ["j-1.j", "j-1.j", "j-0.j"]

    def look_up(name: str, port: None) -> list[object]:
        if unknown and unknown[-1] == name:
            unknown.pop()
            raise socket.gaierror
        return []

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    told = {"JOB_COMPLETION_INDEX": "1", "RATCHET_NODE_NAME": "gpu-7", "RATCHET_NODE_NAMES": "j-0.j,j-1.j"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    place = kubernetes_job.place()
    assert (place.index, place.name, place.head) == (1, "gpu-7", "j-0.j")
    assert unknown == []


def test_node_ends_when_nobody_touches_its_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster goes on with a job whose starter was killed with its machine."""
    monkeypatch.setattr("components.runtime.node.SIGN_SECONDS", 0.05)
    message = tmp_path / "message.json"
    message.write_text("{}")

    class AskedToEnd(Exception):
        pass

    def end(*_: object) -> None:
        raise AskedToEnd

    handler = signal.signal(signal.SIGTERM, end)
    try:
        with _ended_with_its_stage(message, 1.0):
            for _ in range(20):
                time.sleep(0.1)
                os.utime(message)
        with pytest.raises(AskedToEnd), _ended_with_its_stage(message, 1.0):
            time.sleep(10)
    finally:
        signal.signal(signal.SIGTERM, handler)
