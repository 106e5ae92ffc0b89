"""The stack on ports of its own, for all tests of its containers."""

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.stack.containers import PROJECT, ROOT, START_SECONDS, Stack, engine

PORTS = {
    "prefect_port": int(os.environ.get("PREFECT_PORT", "4200")),
    "mlflow_port": int(os.environ.get("MLFLOW_PORT", "5000")),
    "label_port": int(os.environ.get("LABEL_PORT", "4300")),
}


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack, up and deployed; at the end nothing of it is left."""
    secrets = tmp_path_factory.mktemp("stack") / "secrets"
    subprocess.run([ROOT / "docker" / "make-secrets", secrets], check=True)
    running = Stack(secrets, **PORTS)
    running.compose("down", "--volumes")
    try:
        running.compose("up", "--detach", "--no-build")
        running.wait_until_healthy(seconds=START_SECONDS)
        yield running
    finally:
        if not os.environ.get("STACK_KEEP"):
            running.compose("down", "--volumes")
            assert engine("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={PROJECT}") == ""
