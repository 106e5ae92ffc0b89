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
    canary: Annotated[
        float | None,
        typer.Option(help="Share of the conversations that a challenger answers, such as 0.1."),
    ] = None,
    canary_round: Annotated[
        int | None,
        typer.Option(min=1, help="The challenger's round; else the newest finished one that is not served."),
    ] = None,
    url: Annotated[
        str, typer.Option(help="Address under which browsers reach the pages, if a proxy with TLS is before them.")
    ] = "",
) -> None:
    """Serve a campaign's champion behind an OpenAI-compatible endpoint and a chat page, until Ctrl-C.

    Prints the addresses, where the key is, the model's name and a shell line to try it. Every request needs the key:
    that of RATCHET_SERVE_KEY if it is set, else a random one in a file that only you can read. Users of the page who
    agree to it can rate and correct answers; `ratchet feedback` shows what they said (docs/feedback.md).

    Example: [bold]ratchet serve demo --port 8080[/bold]
    """
    with reporting_errors():
        from components.serving.engines import pick_engine
        from components.serving.gateway.running import Challenger, served_to_people
        from components.serving.plan import curl_line, key_place, plan_challenger, plan_serving

        if canary is None and canary_round is not None:
            raise ValueError("--canary-round needs the share of its conversations: add --canary 0.1")
        if canary is not None and not 0 < canary < 1:
            raise ValueError(f"--canary {canary:g} must be above 0 and below 1: use a share such as 0.1")
        if url and not url.startswith(("http://", "https://")):
            raise ValueError(f"--url {url} is not a URL: use something like https://chat.example.org")
        chosen = pick_engine(engine.value)
        serving = plan_serving(campaign, round=round, port=port, host=host)
        challenger = None
        if canary is not None:
            challenger = Challenger(plan_challenger(campaign, champion=serving, round=canary_round), canary)
        what = f"round {serving.model.round} of {campaign}" if serving.model.round else f"the start model of {campaign}"
        console.print(f"starting {chosen} with {what}; its output: {serving.log}", highlight=False, soft_wrap=True)
        if challenger is not None:
            console.print(
                f"and round {challenger.serving.model.round} for {canary:.0%} of the conversations; its output: "
                f"{challenger.serving.log}",
                highlight=False,
                soft_wrap=True,
            )
        try:
            with served_to_people(serving, chosen, challenger=challenger, url=url) as until_it_ends:
                for name, value in (
                    ("page", url or serving.site),
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
