"""Commands for the servers around a campaign: ui."""

from typing import Annotated

import typer

from components.campaign import runs_directory
from flows.commands.terminal import console, told_in_one_line


def ui(
    prefect_port: Annotated[int, typer.Option(min=1, max=65535, envvar="RATCHET_PREFECT_PORT", help="Port of the Prefect page.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535, envvar="RATCHET_MLFLOW_PORT", help="Port of the MLflow page.")] = 5000,
) -> None:
    """Start the Prefect and MLflow pages over what ran, print their addresses, and stay until Ctrl-C."""
    from flows.display import rounds_pages
    from flows.server import pages

    console.print("starting; the MLflow page takes up to a minute the first time", highlight=False)
    with told_in_one_line(), pages(runs_directory(), prefect_port=prefect_port, mlflow_port=mlflow_port) as until_one_ends:
        console.print(f"Prefect  http://127.0.0.1:{prefect_port}", highlight=False)
        console.print(f"MLflow   http://127.0.0.1:{mlflow_port}", highlight=False)
        for campaign, address in rounds_pages(runs_directory(), f"http://127.0.0.1:{mlflow_port}"):
            console.print(f"         the rounds of {campaign}: {address}", highlight=False, soft_wrap=True)
        console.print("Ctrl-C ends both", highlight=False)
        until_one_ends()
