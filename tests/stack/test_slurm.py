"""The batch script, with stand-ins for the two commands that it calls: Slurm's `scontrol`, and `ratchet`."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docker" / "slurm" / "campaign.sbatch"
RATCHET = """#!/bin/bash
echo "${PREFECT_HOME:-none} $*" > "$RECORD/started.part" && mv "$RECORD/started.part" "$RECORD/started"
trap 'echo ended > "$RECORD/ended"; exit 143' TERM
if [ -e "$RECORD/long" ]; then sleep 60 & wait; fi
exit ${CODE:-0}
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A node's environment, with the stand-ins on its PATH."""
    for name, content in (("ratchet", RATCHET), ("scontrol", '#!/bin/sh\necho "$*" > "$RECORD/scontrol"\n')):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "RATCHET_"))}
    places = {"RATCHET_RUNS": "/shared/runs", "RATCHET_BIN": str(tmp_path), "RECORD": str(tmp_path)}
    return (
        own
        | places
        | {
            "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
            "SLURM_JOB_ID": "42",
            "SLURM_TMPDIR": str(tmp_path),
        }
    )


def started(tmp_path: Path) -> tuple[str, str]:
    """Prefect's home and the arguments that `ratchet` was started with."""
    deadline = time.monotonic() + 30
    while not (tmp_path / "started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    home, _, arguments = (tmp_path / "started").read_text().strip().partition(" ")
    return home, arguments


def test_job_passes_its_arguments_on_and_keeps_prefect_on_its_node(tmp_path: Path, environment: dict[str, str]) -> None:
    done = subprocess.run([SCRIPT, "a b.yaml", "--rounds", "1"], env=environment, check=False)
    home, arguments = started(tmp_path)
    assert done.returncode == 0
    assert arguments == "run a b.yaml --rounds 1"
    assert Path(home).parent == tmp_path
    assert not Path(home).exists()


def test_job_with_a_server_uses_it(tmp_path: Path, environment: dict[str, str]) -> None:
    subprocess.run([SCRIPT, "a.yaml"], env=environment | {"PREFECT_API_URL": "http://prefect/api"}, check=True)
    assert started(tmp_path) == ("none", "run a.yaml")


def test_job_fails_if_the_run_fails(environment: dict[str, str]) -> None:
    assert subprocess.run([SCRIPT, "a.yaml"], env=environment | {"CODE": "2"}, check=False).returncode == 2


def test_job_that_must_end_ends_its_run_and_waits_for_its_next_start(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "long").touch()
    job = subprocess.Popen([SCRIPT, "a.yaml"], env=environment)
    home, _ = started(tmp_path)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=30) == 0
    assert (tmp_path / "ended").exists()
    assert (tmp_path / "scontrol").read_text() == "requeue 42\n"
    assert not Path(home).exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RATCHET_RUNS": "runs"}, "RATCHET_RUNS = runs is relative"),
        ({"RATCHET_RUNS": ""}, "set it to an absolute path that every node mounts"),
    ],
)
def test_job_without_a_shared_path_is_refused(
    environment: dict[str, str], changes: dict[str, str], message: str
) -> None:
    done = subprocess.run([SCRIPT, "a.yaml"], env=environment | changes, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert message in done.stderr
