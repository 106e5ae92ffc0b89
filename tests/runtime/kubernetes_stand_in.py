"""Stands in for a cluster: an API server behind TLS that runs the pods of Indexed Jobs as processes of this machine.

Nodes are n1, n2, ..., and the names that a headless Service gives to pods are 127.0.0.1, 127.0.0.2, ...
"""

import contextlib
import datetime
import ipaddress
import json
import os
import re
import ssl
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

NAMESPACE, TOKEN = "ratchet", "the token of the service account"
DRIVER = (
    "import sys; from pathlib import Path; from components.runtime.launchers.kubernetes_driver import main; "
    "sys.exit(main(sys.argv[2:], account=Path(sys.argv[1])))"
)
"""The driver's module with the service account's directory as its first argument: that of a pod is fixed."""
END_SECONDS = 10.0
Json = dict[str, Any]


class Pod:
    """A pod of a Job: a process, its lines with their times, and what the API tells of it."""

    def __init__(self, job: Json, index: int) -> None:
        self.index, self.spec = index, job["spec"]["template"]["spec"]
        name = f"{job['metadata']['name']}-{index}-x7k2p"
        self.metadata = {
            "name": name,
            "uid": f"uid-{name}",
            "labels": job["spec"]["template"]["metadata"]["labels"],
            "annotations": {"batch.kubernetes.io/job-completion-index": str(index)},
        }
        self.lines: list[bytes] = []
        self.process: subprocess.Popen[str] | None = None
        self.waiting: Json | None = None
        self.disruption: Json | None = None

    def start(self, names: dict[str, str]) -> None:
        """Run the command with the variables of the manifest; `names` is what the cluster's DNS knows."""
        (container,) = self.spec["containers"]
        fields = {"spec.nodeName": f"n{self.index + 1}"}
        variables = {"JOB_COMPLETION_INDEX": str(self.index)}
        for entry in container["env"]:
            value = entry.get("value") or fields[entry["valueFrom"]["fieldRef"]["fieldPath"]]
            variables[entry["name"]] = ",".join(names.get(word, word) for word in value.split(","))
        pipes: Json = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen(container["args"], env=os.environ | variables, **pipes)
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                # Whole seconds: many lines have one time.
                time_of_line = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.000000000Z")
                self.lines.append(f"{time_of_line} {line}".encode())

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def described(self) -> Json:
        conditions = [self.disruption] if self.disruption else []
        if self.process is None:
            scheduled = {"type": "PodScheduled", "status": "False"} | (self.waiting or {})
            return self._described("Pending", {}, [*conditions, scheduled], node=None)
        code = self.process.poll()
        if code is None:
            return self._described("Running", {"running": {}}, conditions)
        state = {"terminated": {"exitCode": code % 256, "reason": "Error" if code else "Completed"}}
        return self._described("Failed" if code else "Succeeded", state, conditions)

    def _described(self, phase: str, state: Json, conditions: list[Json], *, node: str | None = "n") -> Json:
        spec = self.spec | ({"nodeName": f"n{self.index + 1}"} if node else {})
        containers = [{"name": "node", "state": state}] if state else []
        status = {"phase": phase, "conditions": conditions, "containerStatuses": containers}
        return {"metadata": self.metadata, "spec": spec, "status": status}


class Cluster:
    """One namespace with the pod in which the driver runs.

    Args:
        directory: Takes the files of the service account.
        port: Port of the API server on 127.0.0.1.
        own_pod: The pod of the driver, as the API describes it.
    """

    def __init__(self, directory: Path, port: int, own_pod: Json) -> None:
        self.own_pod = own_pod
        self.jobs: dict[str, Json] = {}
        self.services: dict[str, Json] = {}
        self.pods: dict[str, Pod] = {}
        self.created: list[Json] = []
        self.deleted: list[tuple[str, str | None]] = []
        self.forbidden: set[tuple[str, str]] = set()
        """Verbs and resources that the service account has no right to."""
        self.unschedulable: Json | None = None
        """Why no pod gets a machine."""
        self.breaks = 0
        """How many streams of lines break within a line."""
        self.streams = 0
        self.delay = 0.0
        """Seconds before a stream tells its first line."""
        self.account = directory
        directory.mkdir()
        (directory / "namespace").write_text(NAMESPACE)
        (directory / "token").write_text(TOKEN)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(_certificate(directory))
        self._server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {"cluster": self}))
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()

    def driver(self, command: list[str]) -> list[str]:
        """Return the command of the launcher for this cluster's service account."""
        return [sys.executable, "-c", DRIVER, str(self.account), *command[3:]]

    def close(self) -> None:
        for pod in list(self.pods.values()):
            pod.end()
        self._server.shutdown()
        self._server.server_close()

    def create(self, kind: str, manifest: Json) -> Json:
        self.created.append(manifest)
        name = manifest["metadata"]["name"]
        {"jobs": self.jobs, "services": self.services}[kind][name] = manifest
        if kind == "jobs":
            pods = [Pod(manifest, index) for index in range(manifest["spec"]["completions"])]
            names = self._names(manifest)
            for pod in pods:
                pod.waiting = self.unschedulable
                self.pods[pod.metadata["name"]] = pod
                if not self.unschedulable:
                    pod.start(names)
        return manifest

    def _names(self, job: Json) -> dict[str, str]:
        """What the DNS knows: names under a headless Service that is the pods' subdomain and selects them."""
        template, name = job["spec"]["template"], job["metadata"]["name"]
        service = self.services[template["spec"]["subdomain"]]
        assert service["spec"]["clusterIP"] == "None"
        assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
        subdomain = service["metadata"]["name"]
        return {f"{name}-{i}.{subdomain}": f"127.0.0.{i + 1}" for i in range(job["spec"]["completions"])}

    def delete(self, kind: str, name: str, policy: str | None) -> Json | None:
        objects = {"jobs": self.jobs, "services": self.services}[kind]
        if name not in objects:
            return None
        self.deleted.append((kind, policy))
        if kind == "services":
            return objects.pop(name)
        # Foreground: the pods end first, and the job is there until then.
        own = [pod for pod in self.pods.values() if pod.metadata["name"].startswith(f"{name}-")]

        def remove() -> None:
            for thread in [threading.Thread(target=pod.end) for pod in own]:
                thread.start()
            for pod in own:
                pod.end()
                self.pods.pop(pod.metadata["name"], None)
            objects.pop(name, None)

        threading.Thread(target=remove, daemon=True).start()
        return objects[name]

    def lose(self, index: int, disruption: Json) -> None:
        """Remove a pod as the cluster does whose machine is lost."""
        pod = next(pod for pod in self.pods.values() if pod.index == index)
        pod.disruption = disruption
        time.sleep(3.0)  # seen before it is removed
        assert pod.process is not None
        del self.pods[pod.metadata["name"]]
        pod.process.kill()
        pod.process.wait()


class _Handler(BaseHTTPRequestHandler):
    cluster: Cluster
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path, query = self._asked()
        pod = re.fullmatch(r"/api/v1/namespaces/ratchet/pods(?:/([^/]+)(/log)?)?", path)
        assert pod, path
        name, log = pod.groups()
        if not self._may("get" if name else "list", f"pods{log or ''}"):
            return
        if name is None:
            key, value = query["labelSelector"].split("=")
            items = [pod.described() for pod in self.cluster.pods.values() if pod.metadata["labels"].get(key) == value]
            self._answer(200, {"kind": "PodList", "items": items})
        elif name == self.cluster.own_pod["metadata"]["name"]:
            self._answer(200, self.cluster.own_pod)
        elif name not in self.cluster.pods:
            self._missing("pods", name)
        elif log:
            assert query.items() >= {"container": "node", "follow": "True", "timestamps": "True"}.items(), query
            with contextlib.suppress(OSError):  # the reader has gone
                self._stream(self.cluster.pods[name])
        else:
            self._answer(200, self.cluster.pods[name].described())

    def do_POST(self) -> None:
        path, _ = self._asked()
        manifest = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kind = self._kind(path)
        if self._may("create", kind):
            self._answer(201, self.cluster.create(kind, manifest))

    def do_DELETE(self) -> None:
        path, query = self._asked()
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        place, _, name = path.rpartition("/")
        kind = self._kind(place)
        if self._may("delete", kind):
            deleted = self.cluster.delete(kind, name, query.get("propagationPolicy"))
            if deleted is None:
                self._missing(kind, name)
            else:
                self._answer(200, deleted)

    def _stream(self, pod: Pod) -> None:
        self.cluster.streams += 1
        breaks = self.cluster.breaks > 0
        self.cluster.breaks -= breaks
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        time.sleep(self.cluster.delay)
        sent = 0
        while pod.metadata["name"] in self.cluster.pods:
            is_over = pod.process is not None and pod.process.poll() is not None
            if is_over:
                time.sleep(0.2)  # its last lines
            for line in pod.lines[sent:]:
                sent += 1
                if breaks and sent == 3:
                    self._chunk(line[: len(line) // 2])
                    self.close_connection = True
                    return
                self._chunk(line)
            if is_over:
                break
            time.sleep(0.05)
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _asked(self) -> tuple[str, dict[str, str]]:
        assert self.headers["Authorization"] == f"bearer {TOKEN}"
        parts = urlsplit(self.path)
        return parts.path, {key: values[0] for key, values in parse_qs(parts.query).items()}

    def _kind(self, path: str) -> str:
        kinds = {"/apis/batch/v1/namespaces/ratchet/jobs": "jobs", "/api/v1/namespaces/ratchet/services": "services"}
        return kinds[path]

    def _may(self, verb: str, resource: str) -> bool:
        if (verb, resource) not in self.cluster.forbidden:
            return True
        group = "batch" if resource == "jobs" else ""
        message = (
            f'{resource} is forbidden: User "system:serviceaccount:ratchet:default" cannot {verb} resource '
            f'"{resource}" in API group "{group}" in the namespace "ratchet"'
        )
        self._answer(403, {"kind": "Status", "reason": "Forbidden", "code": 403, "message": message})
        return False

    def _missing(self, kind: str, name: str) -> None:
        message = f'{kind} "{name}" not found'
        self._answer(404, {"kind": "Status", "reason": "NotFound", "code": 404, "message": message})

    def _answer(self, status: int, content: Json) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _certificate(directory: Path) -> Path:
    """Write a certificate of 127.0.0.1, as the service account's authority, and return the file with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "stand-in")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    (directory / "ca.crt").write_bytes(public)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    both = directory / "server.pem"
    both.write_bytes(private + public)
    return both
