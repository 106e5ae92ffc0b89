"""Commands for the servers around a campaign: ui, up, down, deploy, worker."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from components.campaign.state import runs_directory
from components.config.shipped import conf_path
from flows.terminal.console import console, reporting_errors

PrefectPort = Annotated[
    int, typer.Option(min=1, max=65535, envvar="RATCHET_PREFECT_PORT", help="Port of the Prefect page.")
]
MlflowPort = Annotated[
    int, typer.Option(min=1, max=65535, envvar="RATCHET_MLFLOW_PORT", help="Port of the MLflow page.")
]


def up(prefect_port: PrefectPort = 4200, mlflow_port: MlflowPort = 5000) -> None:
    """Start Prefect, MLflow and a worker in the background, and wait until they answer.

    They listen on this machine only. `ratchet run` uses them while they are up, `ratchet deploy` puts deployments on
    the Prefect page, and `ratchet down` stops all three.
    """
    from flows.servers.services import services_directory, start

    console.print("starting; a fresh database takes up to a minute", highlight=False)
    with reporting_errors():
        addresses = start(runs_directory(), prefect_port=prefect_port, mlflow_port=mlflow_port)
    _print_pages(addresses.prefect, addresses.mlflow)
    console.print(f"logs     {services_directory(runs_directory())}", highlight=False, soft_wrap=True)
    console.print(
        "`ratchet deploy` puts the deployments on the Prefect page; `ratchet down` ends all three", highlight=False
    )


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
    from flows.servers.services import chosen_api

    with reporting_errors():
        api = chosen_api(runs_directory())
        done = put(api, file or conf_path("prefect.yaml"), runs_directory())
    for name in done.names:
        console.print(name, highlight=False)
    for line in done.kept:
        console.print(f"kept as it is on the page: {line}", highlight=False, soft_wrap=True)
    console.print(f"on {api.url.removesuffix('/api')}/deployments", highlight=False, soft_wrap=True)
    console.print(f"their runs write to {runs_directory()}", highlight=False, soft_wrap=True)


def worker() -> None:
    """Start one more worker in the foreground, to run flows of the Prefect page on this machine.

    It asks the server that PREFECT_API_URL names, else the one of `ratchet up`.
    """
    from flows.servers.services import become_worker

    with reporting_errors():
        become_worker(runs_directory())


def ui(prefect_port: PrefectPort = 4200, mlflow_port: MlflowPort = 5000) -> None:
    """Open the Prefect and MLflow pages of what ran, and keep them up until Ctrl-C.

    If `ratchet up` has started them already, only prints their addresses.
    """
    from flows.servers.services import running, services_directory
    from flows.servers.temporary import pages

    with reporting_errors():
        services = running(runs_directory())
    if services is not None:
        _print_pages(services.prefect, services.mlflow)
        console.print("`ratchet up` started them; `ratchet down` ends them", highlight=False)
        return
    console.print("starting; the MLflow page takes up to a minute the first time", highlight=False)
    runs, ports = runs_directory(), {"prefect_port": prefect_port, "mlflow_port": mlflow_port}
    with reporting_errors(), pages(runs, services_directory(runs), **ports) as until_one_ends:
        _print_pages(f"http://127.0.0.1:{prefect_port}", f"http://127.0.0.1:{mlflow_port}")
        console.print("Ctrl-C ends both", highlight=False)
        until_one_ends()


def _print_pages(prefect: str, mlflow: str) -> None:
    from flows.servers.services import sign_in
    from flows.terminal.rounds import rounds_pages

    console.print(f"Prefect  {prefect}", highlight=False)
    if sign_in(runs_directory()).exists():
        file = shlex.quote(str(sign_in(runs_directory())))
        console.print(f"         sign in with the line that this prints: cat {file}", highlight=False, soft_wrap=True)
    console.print(f"MLflow   {mlflow}", highlight=False)
    for campaign, address in rounds_pages(runs_directory(), mlflow):
        console.print(f"         the rounds of {campaign}: {address}", highlight=False, soft_wrap=True)
