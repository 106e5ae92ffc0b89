"""Commands for the servers around a campaign: ui, up, down, deploy, worker."""

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from components.campaign.state import runs_directory
from components.config.shipped import conf_path
from components.runtime.addresses import LOOPBACK, without_password
from flows.servers.labelling_app import DEFAULT_PORT, LABEL_PORT
from flows.terminal.console import console, reporting_errors

PrefectPort = Annotated[
    int, typer.Option(min=1, max=65535, envvar="RATCHET_PREFECT_PORT", help="Port of the Prefect page.")
]
MlflowPort = Annotated[
    int, typer.Option(min=1, max=65535, envvar="RATCHET_MLFLOW_PORT", help="Port of the MLflow page.")
]
LabelPort = Annotated[int, typer.Option(min=1, max=65535, envvar=LABEL_PORT, help="Port of the labelling page.")]


class Only(StrEnum):
    """A part of what `ratchet up` starts."""

    WORKER = "worker"


def up(
    prefect_port: PrefectPort = 4200,
    mlflow_port: MlflowPort = 5000,
    label_port: LabelPort = DEFAULT_PORT,
    only: Annotated[
        Only | None,
        typer.Option(help="`worker`: only a worker, for the servers of PREFECT_API_URL and MLFLOW_TRACKING_URI."),
    ] = None,
) -> None:
    """Start Prefect, MLflow, the labelling page and a worker in the background, and wait until they answer.

    They listen on this machine only. `ratchet run` uses them while they are up, `ratchet deploy` puts deployments on
    the Prefect page, and `ratchet down` stops them all. If they are up, starts again what has ended.
    """
    from flows.servers.addresses import services_directory

    if only is Only.WORKER:
        _up_worker()
        return
    from flows.servers.services import start

    console.print("starting; a fresh database takes up to a minute", highlight=False)
    with reporting_errors():
        addresses = start(runs_directory(), prefect_port=prefect_port, mlflow_port=mlflow_port, label_port=label_port)
    _print_pages(addresses.prefect, addresses.mlflow, sign_in=addresses.mlflow_password is not None)
    if addresses.labelling is not None:
        console.print(f"label    {addresses.labelling}", highlight=False)
        console.print(
            "         let people in with the link that this prints: ratchet label CAMPAIGN --invite NAME",
            highlight=False,
        )
    console.print(f"logs     {services_directory(runs_directory())}", highlight=False, soft_wrap=True)
    console.print(
        "`ratchet deploy` puts the deployments on the Prefect page; `ratchet down` ends them all", highlight=False
    )


def _up_worker() -> None:
    from components.tracking import tracking_uri
    from flows.servers.addresses import services_directory
    from flows.servers.worker import start_worker

    with reporting_errors():
        api = start_worker(runs_directory())
    for name, place in (
        ("Prefect", without_password(api.url.removesuffix("/api"))),
        ("MLflow", without_password(tracking_uri(runs_directory()))),
        ("runs", str(runs_directory())),
        ("log", str(services_directory(runs_directory()) / "worker.log")),
    ):
        console.print(f"{name:<8} {place}", highlight=False, soft_wrap=True, markup=False)
    console.print("a worker takes the flow runs of the pool ratchet; `ratchet down` ends it", highlight=False)


def down() -> None:
    """Stop what `ratchet up` started, and the flow runs of its worker.

    A stopped campaign continues at its next start.
    """
    from flows.servers.services import stop

    with reporting_errors():
        console.print("ended" if stop(runs_directory()) else "nothing is up", highlight=False)


def deploy(
    file: Annotated[Path | None, typer.Option(help="Your own prefect.yaml, instead of the shipped one.")] = None,
) -> None:
    """Put the deployments on the Prefect page, so that people and schedules can start rounds there.

    Sets up the work pool and the automations too. Running it again takes up what changed in the file, and keeps what
    people set on the page: parameters, schedules, limits, tags, and which automations are on. If the variable
    RATCHET_WEBHOOK holds an address, promoted, refused and failed rounds are reported there.
    """
    from flows.prefect_page.deploy import deploy as put
    from flows.servers.addresses import chosen_api

    with reporting_errors():
        api = chosen_api(runs_directory())
        done = put(api, file or conf_path("prefect.yaml"), runs_directory())
    for name in done.names:
        console.print(name, highlight=False)
    for line in done.kept:
        console.print(f"kept as it is on the page: {line}", highlight=False, soft_wrap=True)
    page = without_password(api.url.removesuffix("/api"))
    console.print(f"on {page}/deployments", highlight=False, soft_wrap=True)
    console.print(f"their runs write to {runs_directory()}", highlight=False, soft_wrap=True)


def worker() -> None:
    """Start one more worker in the foreground, to run flows of the Prefect page on this machine.

    It asks the server that PREFECT_API_URL names, else the one of `ratchet up`.
    """
    from flows.servers.worker import become_worker

    with reporting_errors():
        become_worker(runs_directory())


def ui(prefect_port: PrefectPort = 4200, mlflow_port: MlflowPort = 5000) -> None:
    """Open the Prefect and MLflow pages of what ran, and keep them up until Ctrl-C.

    If `ratchet up` has started them already, only prints their addresses.
    """
    from flows.servers.addresses import running, services_directory
    from flows.servers.mlflow_app import wants_sign_in
    from flows.servers.temporary import pages

    with reporting_errors():
        services = running(runs_directory())
    if services is not None:
        _print_pages(services.prefect, services.mlflow, sign_in=services.mlflow_password is not None)
        console.print("`ratchet up` started them; `ratchet down` ends them", highlight=False)
        return
    console.print("starting; the MLflow page takes up to a minute the first time", highlight=False)
    runs, ports = runs_directory(), {"prefect_port": prefect_port, "mlflow_port": mlflow_port}
    with reporting_errors(), pages(runs, services_directory(runs), **ports) as until_one_ends:
        prefect, mlflow = (f"http://{LOOPBACK}:{port}" for port in (prefect_port, mlflow_port))
        _print_pages(prefect, mlflow, sign_in=wants_sign_in())
        console.print("Ctrl-C ends both", highlight=False)
        until_one_ends()


def _print_pages(prefect: str, mlflow: str, *, sign_in: bool) -> None:
    from flows.servers.addresses import services_directory
    from flows.servers.key import key_file
    from flows.servers.mlflow_app import USER, password_file
    from flows.terminal.rounds import rounds_pages

    directory = services_directory(runs_directory())
    console.print(f"Prefect  {prefect}", highlight=False)
    _print_sign_in("sign in with the line that this prints", key_file(directory))
    console.print(f"MLflow   {mlflow}", highlight=False)
    if sign_in:
        _print_sign_in(f"sign in as {USER} with the password that this prints", password_file(directory))
    for campaign, address in rounds_pages(runs_directory(), mlflow):
        console.print(f"         the rounds of {campaign}: {address}", highlight=False, soft_wrap=True)


def _print_sign_in(how: str, file: Path) -> None:
    if file.exists():  # servers of an earlier version have no key
        console.print(f"         {how}: cat {shlex.quote(str(file))}", highlight=False, soft_wrap=True, markup=False)
