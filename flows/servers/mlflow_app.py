"""The MLflow server that we start: its command, its environment, and its sign-in if RATCHET_MLFLOW_SIGN_IN is set."""

import configparser
import os
import secrets
import sys
from pathlib import Path

import httpx

from components.records import ServiceFailed
from components.runtime.addresses import LOOPBACK
from components.runtime.secret_file import ensure_secret, read_secret

SIGN_IN = "RATCHET_MLFLOW_SIGN_IN"
USER = "admin"
LIGHT_MLFLOW = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}
"""Environment of an MLflow server without the half dozen processes for jobs of its GenAI pages, which we do not use."""


def wants_sign_in() -> bool:
    """Return whether the user wants the MLflow page to ask for a password.

    Raises:
        ValueError: RATCHET_MLFLOW_SIGN_IN is neither true nor false.
    """
    value = os.environ.get(SIGN_IN, "").lower()
    if value not in ("", "0", "1", "false", "true"):
        raise ValueError(f"{SIGN_IN} = {value} must be true or false")
    return value in ("1", "true")


def password_file(services: Path) -> Path:
    """Return the path of the file with the password of MLflow's user admin."""
    return services / "mlflow-password"


def users_file(services: Path) -> Path:
    """Return the path of MLflow's database of users and hashes of their passwords."""
    return services / "mlflow-users.db"


def mlflow_options(*, sign_in: bool) -> list[str]:
    """Return the options of `mlflow server` besides its address."""
    return ["--app-name", "basic-auth"] if sign_in else []


def mlflow_command(port: int, *, sign_in: bool) -> list[str]:
    """Return the command that runs the server on a port of the loopback interface.

    The store is in its environment: on a command line, every user of the machine could read a database's password.
    """
    server = [sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(port)]
    return [*server, *mlflow_options(sign_in=sign_in)]


def mlflow_environment(runs: Path, services: Path, *, store: str, port: int, sign_in: bool) -> dict[str, str]:
    """Return the environment of the server. With sign-in, creates the password if there is none.

    Args:
        runs: Directory that holds the campaigns' directories, and the weights that clients upload.
        services: Directory of the servers' secrets, for their owner alone.
        store: Address of MLflow's store.
        port: The server's port.
        sign_in: Whether the server requires the password.

    Raises:
        ValueError: The password cannot be used.
    """
    from components.tracking import artifact_root

    root = artifact_root(runs)
    # By default, MLflow lets in every host that begins like a private address, such as 10.evil.example.
    hosts = ",".join(f"{host},{host}:*" for host in (LOOPBACK, "localhost"))
    environment = {
        **LIGHT_MLFLOW,
        "MLFLOW_BACKEND_STORE_URI": store,
        # Files have their own address, so that they are found without the server too. The server also serves those of
        # experiments that name the server.
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": root,
        "MLFLOW_ARTIFACTS_DESTINATION": root,
        "MLFLOW_SERVER_ALLOWED_HOSTS": os.environ.get("MLFLOW_SERVER_ALLOWED_HOSTS") or hosts,
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": f"http://{LOOPBACK}:{port},http://localhost:{port}",
    }
    if not sign_in:
        return environment
    return environment | {
        "MLFLOW_AUTH_CONFIG_PATH": str(_write_settings(services)),
        "MLFLOW_AUTH_ADMIN_USERNAME": USER,
        "MLFLOW_AUTH_ADMIN_PASSWORD": ensure_secret(password_file(services), lambda: secrets.token_urlsafe(32)),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_urlsafe(32),
        "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true",
    }


def _write_settings(services: Path) -> Path:
    """Write MLflow's file of settings, which holds no secret, and return its path. Creates its database of users."""
    users = users_file(services).resolve()
    os.close(os.open(users, os.O_WRONLY | os.O_CREAT, 0o600))
    settings = configparser.ConfigParser(interpolation=None)
    settings["mlflow"] = {"default_permission": "READ", "database_uri": f"sqlite:///{users}".replace("%", "%%")}
    path = services / "mlflow-users.ini"
    with path.open("w", encoding="utf-8") as file:
        settings.write(file)
    return path


def read_password(services: Path) -> str | None:
    """Return the password of MLflow's user admin, or None if there is none.

    Raises:
        ValueError: It cannot be used.
    """
    return read_secret(password_file(services))


def client_environment(password: str | None) -> dict[str, str]:
    """Return the variables with which MLflow's client signs in."""
    return {} if password is None else {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": password}


def check_password(address: str, services: Path) -> None:
    """Check that the server takes the password: MLflow keeps the one with which its user was created.

    Raises:
        ServiceFailed: It does not.
    """
    password = read_password(services)
    assert password is not None
    page = f"{address}/version"
    if httpx.get(page, auth=(USER, password), timeout=30, trust_env=False).status_code == httpx.codes.UNAUTHORIZED:
        raise ServiceFailed(
            f"MLflow does not take the password in {password_file(services)}, which is newer than its user {USER}: "
            f"run `ratchet down`, delete {users_file(services)}, and start again"
        )
