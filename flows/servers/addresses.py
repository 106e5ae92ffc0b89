"""Which background servers are up over a directory of runs, and how to reach them."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.artifacts import read_json, write_json
from flows.prefect_page.deployed import STORE_VARIABLE
from flows.servers.key import PrefectApi, read_key
from flows.servers.mlflow_app import client_environment, read_password
from flows.servers.supervisord import Supervisord


@dataclass(frozen=True)
class Addresses:
    """Addresses of the running services."""

    prefect: str
    mlflow: str
    labelling: str | None = None
    """Address of the page on which people compare answers; None if an earlier version started the others."""
    key: str | None = field(default=None, repr=False)
    """Key that Prefect requires; None if an earlier version started it."""
    mlflow_password: str | None = field(default=None, repr=False)
    """Password of MLflow's user admin; None if MLflow requires none."""

    @property
    def api(self) -> PrefectApi:
        """Prefect's API."""
        return PrefectApi(f"{self.prefect}/api", self.key)

    def mlflow_environment(self) -> dict[str, str]:
        """Return the variables by which MLflow's client finds the server and signs in."""
        return {STORE_VARIABLE: self.mlflow, **client_environment(self.mlflow_password)}


def services_directory(runs: Path) -> Path:
    """Return the directory of the services' logs, process ids and secrets."""
    return runs / ".services"


def running(runs: Path) -> Addresses | None:
    """Return the addresses of the services over `runs`, or None if they are not up, or are another user's.

    Raises:
        ValueError: Their secrets cannot be used.
    """
    directory = services_directory(runs)
    known = read_known(directory)
    if known is None or not known.get("own", True):
        return None
    password = read_password(directory) if known.get("sign_in") else None
    return Addresses(
        prefect=known["prefect"],
        mlflow=known["mlflow"],
        labelling=known.get("labelling"),
        key=read_key(directory),
        mlflow_password=password,
    )


def chosen_api(runs: Path) -> PrefectApi:
    """Return the API that PREFECT_API_URL names (environment or profile), else the one of the services over `runs`.

    Raises:
        ValueError: Neither exists.
    """
    from prefect.settings import PREFECT_API_URL

    services = running(runs)
    configured = os.environ.get("PREFECT_API_URL") or PREFECT_API_URL.value()
    if services is not None and (not configured or services.api.is_at(configured)):
        return services.api
    if not configured:
        raise ValueError("no Prefect server is running: start one with `ratchet up`, or set PREFECT_API_URL")
    return PrefectApi(configured)


def read_known(directory: Path) -> dict[str, Any] | None:
    """Return what the last start wrote, or None if nothing is up or the directory is another user's."""
    if not os.access(directory, os.X_OK) or Supervisord(directory).pid() is None:
        return None
    path = directory / "addresses.json"
    return read_json(path) if path.exists() else None


def write_known(
    directory: Path,
    *,
    prefect: str,
    mlflow: str | None,
    own: bool,
    labelling: str | None = None,
    sign_in: bool = False,
) -> None:
    """Write what a start has started.

    Args:
        directory: Directory of the services.
        prefect: Address of Prefect's page, or, if `own` is False, of its API.
        mlflow: Address of MLflow's page; None if `own` is False.
        own: Whether the servers are ours, and not only the worker.
        labelling: Address of the page on which people compare answers; None if `own` is False.
        sign_in: Whether MLflow requires a password.
    """
    addresses = {"prefect": prefect, "mlflow": mlflow, "labelling": labelling}
    write_json(directory / "addresses.json", {**addresses, "own": own, "sign_in": sign_in})


def forget(directory: Path) -> None:
    """Delete what the last start wrote."""
    (directory / "addresses.json").unlink(missing_ok=True)
