"""`ratchet label`: the page on which people compare answers, and whom it lets in."""

import contextlib
import errno
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from components.campaign.state import campaign_directory, known_state, runs_directory
from components.runtime.addresses import LOOPBACK, LOOPBACK_NAMES, is_loopback
from flows.servers.labelling_app import DEFAULT_PORT, LABEL_PORT, LABEL_URL
from flows.terminal.console import CampaignArgument, console, reporting_errors

Invite = Annotated[
    str | None, typer.Option(metavar="NAME", help="Print a personal link for an annotator, and serve nothing.")
]
Days = Annotated[float, typer.Option(min=0.01, max=365, help="Days for which the link of --invite opens.")]
Revoke = Annotated[
    str | None, typer.Option(metavar="NAME", help="End an annotator's links and sessions; their votes stay.")
]
Status = Annotated[bool, typer.Option("--status", help="Print how far the tasks and the annotators are.")]
Close = Annotated[
    bool, typer.Option("--close", help="Close the open tasks: the round goes on with the votes that it has.")
]
Export = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write what people judged, without names, in the form of --to.")
]
To = Annotated[
    str, typer.Option(help="Form of --export: ratchet, trl, hh, label-studio, argilla or another of `ratchet convert`.")
]
Import = Annotated[
    str | None,
    typer.Option("--import", metavar="FILE", help="Count pairs that were labelled elsewhere as votes on open tasks."),
]
As = Annotated[
    str, typer.Option("--as", metavar="NAME", help="Annotator as whom --import counts; its people are NAME-WHO.")
]
Port = Annotated[int, typer.Option(min=1, max=65535, envvar=LABEL_PORT, help="Port of the page.")]
Host = Annotated[str, typer.Option(help="Address to listen on; other machines need --url, and HTTPS before it.")]
Url = Annotated[
    str | None, typer.Option(envvar=LABEL_URL, help="Public address of the page, such as https://labels.example.")
]


def label(
    campaign: CampaignArgument,
    invite: Invite = None,
    days: Days = 7,
    revoke: Revoke = None,
    status: Status = False,
    close: Close = False,
    export: Export = None,
    to: To = "ratchet",
    import_from: Import = None,
    import_as: As = "import",
    port: Port = DEFAULT_PORT,
    host: Host = LOOPBACK,
    url: Url = None,
) -> None:
    """Serve the page on which people compare two answers, until Ctrl-C.

    A round whose judge is people waits for their votes. Invite them with --invite NAME, which prints a personal link,
    and look at --status. The page serves all campaigns; `ratchet up` keeps it up in the background.

    Example: [bold]ratchet label demo --invite ann[/bold], then [bold]ratchet label demo[/bold]
    """
    with reporting_errors():
        directory = campaign_directory(campaign)
        if not directory.is_dir():
            known_state(campaign)
        actions = {
            "--invite": invite is not None,
            "--revoke": revoke is not None,
            "--status": status,
            "--close": close,
            "--export": export is not None,
            "--import": import_from is not None,
        }
        if sum(actions.values()) > 1:
            raise ValueError(f"{', '.join(actions)} exclude each other: give one of them")
        if invite is not None:
            _invite(directory, invite, days=days, address=_address(port=port, url=url))
        elif revoke is not None:
            _revoke(directory, revoke)
        elif status:
            _print_status(directory)
        elif close:
            _close(directory)
        elif export is not None:
            _export(directory, export, form=to)
        elif import_from is not None:
            _import(directory, import_from, annotator=import_as)
        else:
            _serve(campaign, host=host, port=port, url=url)


def _invite(directory: Path, name: str, *, days: float, address: str) -> None:
    from components.labelling.database import opened
    from components.labelling.invitations import invite

    with opened(directory) as database:
        token = invite(database, name, days=days, now=datetime.now(UTC))
    console.print(f"{address}/join/{directory.name}.{token}", highlight=False, soft_wrap=True, markup=False)
    console.print(f"for {name} alone, in one browser, within {days:g} days; it is not shown again", highlight=False)


def _revoke(directory: Path, name: str) -> None:
    from components.labelling.database import opened
    from components.labelling.invitations import revoke

    with opened(directory) as database:
        links = revoke(database, name, now=datetime.now(UTC))
    console.print(f"{name}: {links} link{'' if links == 1 else 's'} and every session ended", highlight=False)


def _print_status(directory: Path) -> None:
    from components.labelling.progress import read_annotators, read_progress
    from flows.terminal.labelling import print_status

    tasks = read_progress(directory)
    if not tasks:
        console.print(f"{directory.name} has asked people nothing yet", highlight=False)
        return
    print_status(console, tasks, read_annotators(directory))


def _close(directory: Path) -> None:
    from components.labelling.progress import close_by_hand

    closed = close_by_hand(directory, datetime.now(UTC))
    console.print(f"closed {', '.join(closed)}" if closed else "no task is open", highlight=False, soft_wrap=True)


def _export(directory: Path, out: Path, *, form: str) -> None:
    from components.labelling.exchange import export_pairs
    from flows.terminal.convert import print_conversion

    print_conversion(console, export_pairs(directory, out, target=form), out)


def _import(directory: Path, source: str, *, annotator: str) -> None:
    from components.labelling.importing import import_votes

    done = import_votes(directory, source, annotator=annotator, now=datetime.now(UTC))
    console.print(f"votes    {done.taken} taken as those of {annotator}", highlight=False, markup=False)
    if done.known:
        console.print(f"known    {done.known} stand already", highlight=False)
    if done.foreign:
        console.print(f"foreign  {done.foreign} are not of an open task", highlight=False)


def _address(*, port: int, url: str | None) -> str:
    """Return the page's address for people: the public one, else that of `ratchet up`, else that of this machine."""
    from flows.servers.addresses import running
    from flows.servers.labelling_app import public_host

    if url is not None:
        public_host(url)
        return url.rstrip("/")
    services = running(runs_directory())
    return (services.labelling if services is not None else None) or f"http://{LOOPBACK}:{port}"


def _serve(campaign: str, *, host: str, port: int, url: str | None) -> None:
    from flows.servers.addresses import running

    services = running(runs_directory())
    if services is not None and services.labelling is not None:
        console.print(f"page     {services.labelling}", highlight=False)
        console.print("`ratchet up` started it; `ratchet down` ends it", highlight=False)
        return
    if host not in LOOPBACK_NAMES and url is None:
        raise ValueError(
            f"--host = {host} lets other machines in: name the address under which they do with --url, or leave it out"
        )
    import uvicorn

    from flows.servers.labelling_app import app_at

    _check_port(host, port)
    app = app_at(url)
    console.print(f"page     {_address(port=port, url=url)}", highlight=False, soft_wrap=True, markup=False)
    console.print(f"invite   ratchet label {campaign} --invite NAME", highlight=False)
    if url is not None and url.startswith("http:") and not is_loopback(url):
        console.print("caution  without HTTPS, links, texts and votes travel in clear text", highlight=False)
    console.print("Ctrl-C ends it", highlight=False)
    # uvicorn lets requests end, then passes the signal on.
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.run(
            app,
            host=host,
            port=port,
            log_level="warning",
            lifespan="on",
            # A proxy may say who asks, if there is one.
            proxy_headers=url is not None,
            server_header=False,
            access_log=False,
        )
    console.print("\nstopped", highlight=False)


def _check_port(host: str, port: int) -> None:
    from components.runtime.ports import check_bindable, holder

    try:
        check_bindable(host, port)
    except OSError as error:
        by = f" by {name}" if (name := holder(port)) else ""
        in_use = error.errno == errno.EADDRINUSE
        cause = f"port {port} is in use{by}: give another one with --port" if in_use else f"--host = {host}: {error}"
        raise ValueError(cause) from None
