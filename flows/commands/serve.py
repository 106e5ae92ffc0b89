"""`ratchet serve`: a campaign's model behind an OpenAI-compatible endpoint."""

from enum import StrEnum
from typing import Annotated

import typer

from components.runtime.addresses import LOOPBACK
from flows.terminal.console import CampaignArgument, console, reporting_errors


class EngineChoice(StrEnum):
    """The engine that generates the responses."""

    AUTO = "auto"
    TRANSFORMERS = "transformers"
    VLLM = "vllm"


def serve(
    campaign: CampaignArgument,
    round: Annotated[
        int | None, typer.Option("--round", min=0, help="Serve this round's model, not the champion; 0: the start.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the endpoint.")] = 8000,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in, if they have the key.")
    ] = LOOPBACK,
    engine: Annotated[
        EngineChoice, typer.Option(help="`auto` takes vLLM if it is installed, else transformers.")
    ] = EngineChoice.AUTO,
) -> None:
    """Serve a campaign's champion behind an OpenAI-compatible endpoint, until Ctrl-C.

    Prints the endpoint's address, where its key is, the model's name and a shell line to try it. Every request needs
    the key: that of RATCHET_SERVE_KEY if it is set, else a random one in a file that only you can read.

    Example: [bold]ratchet serve demo --port 8080[/bold]
    """
    with reporting_errors():
        from components.serving.engines import pick_engine
        from components.serving.plan import curl_line, key_place, plan_serving
        from components.serving.server import served

        chosen = pick_engine(engine.value)
        serving = plan_serving(campaign, round=round, port=port, host=host)
        what = f"round {serving.model.round} of {campaign}" if serving.model.round else f"the start model of {campaign}"
        console.print(f"starting {chosen} with {what}; its output: {serving.log}", highlight=False, soft_wrap=True)
        try:
            with served(serving, chosen) as until_it_ends:
                for name, value in (
                    ("address", serving.address),
                    ("key", key_place(serving.directory)),
                    ("model", serving.model_id),
                    ("try", curl_line(serving)),
                ):
                    console.print(f"{name:<8} {value}", highlight=False, soft_wrap=True, markup=False)
                console.print("Ctrl-C ends it", highlight=False)
                until_it_ends()
        except KeyboardInterrupt:
            console.print("\nstopped", highlight=False)
