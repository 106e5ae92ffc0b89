"""A real Postgres and a real S3 as MLflow's stores: recorded, loaded back, freed, away, and refused.

`make test-stores` runs them. They need Debian's package postgresql and the extra `stores`, and fail without.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from components.campaign.state import read_state
from components.runtime.children import child_process
from components.runtime.ports import free_port
from components.tracking import Tracked, TrackingRefused, TrackingUnavailable, collect_copies
from flows.servers.mlflow_app import mlflow_environment
from tests.tracking.conftest import serve_mlflow

pytestmark = pytest.mark.stores
PASSWORD = "s3cret"
MODEL_FILES = {"README.md", "config.json", "model.safetensors"}


class Postgres:
    """A cluster of its own on the loopback interface, which asks for a password."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.port = directory, free_port()
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if not programs:
            pytest.fail("Postgres is not installed: apt-get install postgresql")
        self.programs = programs[-1].parent
        # Postgres refuses to run as root.
        self.user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        if self.user:
            shutil.chown(directory, "postgres")
        (directory / "password").write_text(PASSWORD)
        (directory / "password").chmod(0o644)
        options = ["-A", "scram-sha-256", "-U", "ratchet", f"--pwfile={directory / 'password'}", "-N"]
        self.run("initdb", "-D", str(directory / "data"), *options)

    def run(self, program: str, *arguments: str) -> None:
        command = [*self.user, str(self.programs / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.directory)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        log = str(self.directory / "log")
        self.run("pg_ctl", "-D", str(self.directory / "data"), "-w", "-t", "120", "-l", log, "-o", options, "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-D", str(self.directory / "data"), "-m", "immediate", "stop")

    def uri(self, password: str = PASSWORD) -> str:
        return f"postgresql://ratchet:{password}@127.0.0.1:{self.port}/postgres"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory(prefix="ratchet-postgres-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        cluster = Postgres(directory)
        cluster.start()
        yield cluster
        cluster.stop()


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """Address of a bucket; the variables lead boto3 to it."""
    import boto3

    port = free_port()
    variables = {
        "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "ratchet",
        "AWS_SECRET_ACCESS_KEY": PASSWORD,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        with child_process(command, stdout=subprocess.DEVNULL) as server:
            deadline = time.monotonic() + 120
            while not _listens(port):
                assert server.poll() is None, "the S3 server ended: pip install 'dpo-ratchet[stores]'"
                assert time.monotonic() < deadline
                time.sleep(0.2)
            boto3.client("s3", endpoint_url=variables["MLFLOW_S3_ENDPOINT_URL"]).create_bucket(Bucket="ratchet")
            yield "s3://ratchet/models"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def champion(name: str, uri: str, monkeypatch: pytest.MonkeyPatch, place: Path) -> set[str]:
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        place.mkdir()
        return set(os.listdir(download_artifacts(f"models:/{name}@champion", dst_path=str(place))))


def test_campaign_in_postgres_and_s3_loads_back_with_and_without_a_server_and_is_freed(
    postgres: Postgres,
    bucket: str,
    runs: Path,
    record: Callable[..., Tracked],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import boto3

    monkeypatch.setenv("RATCHET_ARTIFACTS", bucket)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres.uri())
    assert record(1).model_version == 1
    environment = mlflow_environment(runs, runs / ".services", store=postgres.uri(), port=0, sign_in=False)
    with serve_mlflow(env=environment, cwd=tmp_path) as port:
        server = f"http://127.0.0.1:{port}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
        assert record(2).model_version == 2
        assert champion("demo", server, monkeypatch, tmp_path / "one") == MODEL_FILES
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres.uri())
    assert record(3).model_version == 3
    assert champion("demo", postgres.uri(), monkeypatch, tmp_path / "two") == MODEL_FILES
    assert not (runs / "mlartifacts").exists()

    def weights() -> list[str]:
        client = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
        listed = client.list_objects_v2(Bucket="ratchet", Prefix="models/demo/").get("Contents", [])
        return [each["Key"] for each in listed if each["Key"].endswith(".safetensors")]

    assert len(weights()) == 3
    state = read_state(runs / "demo")
    assert state is not None
    freed = collect_copies(runs / "demo", state.rounds, dry_run=False)
    assert set(freed) == {1, 2}
    assert min(freed.values()) > 500
    assert len(weights()) == 1
    assert MlflowClient(postgres.uri()).get_experiment_by_name("demo").artifact_location == f"{bucket}/demo"


def test_bucket_and_password_that_are_wrong_are_no_outage(
    postgres: Postgres, bucket: str, record: Callable[..., Tracked], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RATCHET_ARTIFACTS", "s3://no-such-bucket/models")
    with pytest.raises(TrackingRefused, match="NoSuchBucket"):
        record(1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres.uri("wrong"))
    with pytest.raises(TrackingRefused, match="password authentication failed") as refused:
        record(1)
    assert "wrong@" not in str(refused.value)


def test_postgres_that_is_away_is_an_outage_that_does_not_last(
    postgres: Postgres, runs: Path, build: Any, record_again: Callable[..., Tracked], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, _ = build(1)
    directory.rename(runs / "away")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres.uri())
    postgres.stop()
    started = time.monotonic()
    try:
        with pytest.raises(TrackingUnavailable, match="Connection refused") as away:
            record_again(1, "away")
        assert not isinstance(away.value, TrackingRefused)
        assert time.monotonic() - started < 60
        assert PASSWORD not in str(away.value)
    finally:
        postgres.start()
    assert record_again(1, "away").model_version == 1
