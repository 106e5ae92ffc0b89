"""docker/ holds what it says: the linters and schemas accept it, and no service has more rights than it needs."""

import importlib.util
import os
import re
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
BIN = Path(sys.executable).parent
LOCKS = ("lock-build.txt", "lock.txt", "lock-gpu.txt")
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())


def script(name: str) -> ModuleType:
    """A script of docker/ as a module."""
    spec = importlib.util.spec_from_file_location(name, DOCKER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command], env=os.environ | environment, capture_output=True, text=True, check=False
    )


def locked(file: str) -> dict[str, str]:
    lines = [line for line in (DOCKER / file).read_text().splitlines() if not line.startswith("#")]
    matches = [re.fullmatch(r"(\S+)==(\S+) --hash=sha256:[0-9a-f]{64}", line) for line in lines]
    assert None not in matches, f"{file} has a line without version and hash"
    return {match[1]: match[2] for match in matches if match is not None}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("file", ["docker/Dockerfile", "tests/stack/postgres/Dockerfile"])
def test_dockerfiles_pass_the_linter(file: str) -> None:
    done = run(BIN / "hadolint", ROOT / file)
    assert done.returncode == 0, done.stdout


def test_linter_finds_what_it_is_there_for(tmp_path: Path) -> None:
    """Catches a configuration that ignores everything."""
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN apt-get install tini\n")
    done = run(BIN / "hadolint", tmp_path / "Dockerfile")
    assert done.returncode == 1
    assert "DL3006" in done.stdout
    assert "DL3008" in done.stdout


def test_compose_file_matches_the_compose_specification(tmp_path: Path) -> None:
    check = (BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec")
    done = run(*check, DOCKER / "compose.yaml")
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / "compose.yaml"
    wrong.write_text((DOCKER / "compose.yaml").read_text().replace("stop_grace_period:", "stop_grace:"))
    assert run(*check, wrong).returncode == 1


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_services_have_no_rights_that_they_do_not_need(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "devices"} & service.keys()
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert not [volume for volume in service.get("volumes", []) if "docker.sock" in volume]


def test_services_that_stay_up_have_a_health_check_and_a_time_to_stop() -> None:
    lasting = {name: service for name, service in COMPOSE["services"].items() if service["restart"] == "unless-stopped"}
    assert [name for name, service in lasting.items() if service["healthcheck"]["test"][0] != "CMD"] == []
    assert COMPOSE["services"]["worker"]["stop_grace_period"] == "90s"
    assert COMPOSE["services"]["worker"]["depends_on"]["mlflow"] == {"condition": "service_healthy"}


def test_secrets_are_files_and_in_no_variable() -> None:
    secret = re.compile(r"PASSWORD|SECRET|AUTH_STRING|TOKEN|KEY$")
    for name, service in COMPOSE["services"].items():
        for variable, value in service.get("environment", {}).items():
            if secret.search(variable):
                assert variable.endswith("_FILE"), (name, variable)
                assert value.removeprefix("/run/secrets/") in service["secrets"], (name, variable)


def test_secrets_that_the_compose_file_names_are_written_once_and_closed_to_others(tmp_path: Path) -> None:
    directory = tmp_path / "secrets"
    assert run(DOCKER / "make-secrets", directory).returncode == 0
    first = {path.name: path.read_text() for path in directory.iterdir()}
    assert first.keys() == COMPOSE["secrets"].keys()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o444}
    assert len(first["mlflow-password"].strip()) >= 12  # MLflow refuses a shorter one
    assert re.fullmatch(r"admin:[\w=-]{32}\n", first["prefect-key"])
    assert len(set(first.values())) == len(first)
    (directory / "prefect-key").unlink()
    assert run(DOCKER / "make-secrets", directory).returncode == 0
    second = {path.name: path.read_text() for path in directory.iterdir()}
    assert {name for name in first if first[name] != second[name]} == {"prefect-key"}


def test_entrypoint_refuses_a_secret_that_is_not_there() -> None:
    done = run(DOCKER / "entrypoint", "true", PASSWORD_FILE="/run/secrets/none-of-that-name")
    assert done.returncode == 2
    assert done.stderr == ("PASSWORD_FILE = /run/secrets/none-of-that-name is missing or empty: create the secret\n")


def test_entrypoint_leaves_other_files_alone() -> None:
    """Catches an entrypoint that takes SSL_CERT_FILE for a secret."""
    done = run(DOCKER / "entrypoint", "sh", "-c", 'echo "$SSL_CERT_FILE ${SSL_CERT-none}"', SSL_CERT_FILE="/etc/hosts")
    assert done.stdout == "/etc/hosts none\n"


def test_lock_files_have_the_versions_of_the_environment() -> None:
    pinned = dict(line.split("==") for line in (ROOT / "conf" / "versions.txt").read_text().split())
    versions = {normalised(name): version for name, version in pinned.items()}
    packages = {name: version for file in LOCKS for name, version in locked(file).items()}
    assert {name: version for name, version in packages.items() if versions.get(name, version) != version} == {}
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {normalised(re.match(r"[\w.-]+", requirement)[0]) for requirement in required}  # type: ignore[index]
    assert names - packages.keys() == set()


def test_cpu_image_has_the_locked_version_of_torch() -> None:
    (version,) = re.findall(r'"torch==(\S+)\+cpu"', (DOCKER / "Dockerfile").read_text())
    assert locked("lock-gpu.txt")["torch"] == version
    assert not [name for name in locked("lock.txt") if name.startswith(("nvidia", "cuda", "torch", "triton"))]


@pytest.mark.parametrize(
    ("vulnerabilities", "passes", "passes_if_reachable"),
    [
        ({"a": [], "b": []}, True, True),
        ({"a": ["CVE-1"], "b": []}, False, False),
        ({"a": [], "b": None}, False, False),
        ({"a": ["CVE-1"], "b": None}, False, False),
        ({"a": None, "b": None}, False, True),
    ],
)
def test_audit_passes_only_what_was_audited(
    vulnerabilities: dict[str, list[str] | None], passes: bool, passes_if_reachable: bool
) -> None:
    """Catches an audit that takes a package without an answer for one without a vulnerability, as pip-audit does."""
    verdict = script("audit").verdict
    assert verdict(vulnerabilities, allow_unreachable=False)[0] is passes
    assert verdict(vulnerabilities, allow_unreachable=True)[0] is passes_if_reachable


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def test_audit_and_images_read_the_same_lock_files() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    assert {path.name for path in DOCKER.glob("lock*.txt")} == set(LOCKS)
    assert [name for name in LOCKS if f"--require-hashes -r {name}" not in text] == []
