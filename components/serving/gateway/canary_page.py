"""The canary's page: what users say of champion and challenger, with intervals. It decides nothing."""

from html import escape
from typing import Any

from components.feedback.selection import standing
from components.feedback.store import FeedbackStore
from components.feedback.summary import compare_arms
from components.records import Interval
from components.serving.gateway.canary import Canary

HEAD = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>Canary of {campaign}</title>
<link rel="stylesheet" href="/static/base.css"><link rel="stylesheet" href="/static/chat.css"></head>
<body><main class="canary"><h1>Canary of {campaign}</h1>"""


def canary_report(store: FeedbackStore, canary: Canary | None, champion: int) -> dict[str, Any]:
    """Return share, rounds and thumbs of a canary as JSON; without one, only that there is none."""
    if canary is None:
        return {"canary": None}
    thumbs = compare_arms(standing(store.rows()), champion=champion, challenger=canary.round)
    return {"canary": {"share": canary.share}, **thumbs.model_dump(mode="json")}


def canary_html(campaign: str, report: dict[str, Any]) -> str:
    """Return the page of a report."""
    head = HEAD.format(campaign=escape(campaign))
    if report["canary"] is None:
        return f"{head}<p>All conversations are answered by one model: start the server with <code>--canary 0.1</code>."
    rows = "".join(
        f"<tr><th scope='row'>{name}</th><td>round {arm['round']}</td><td>{arm['up']} of {arm['conversations']}</td>"
        f"<td>{_interval(arm['share_up'])}</td></tr>"
        for name, arm in (("champion", report["champion"]), ("challenger", report["challenger"]))
    )
    difference = report["difference"]
    verdict = (
        "One of them has no thumb yet."
        if difference is None
        else f"Challenger minus champion: <strong>{_interval(difference, signed=True)}</strong>."
    )
    return (
        f"{head}<p>{report['canary']['share']:.0%} of the conversations are answered by the challenger.</p>"
        "<table><thead><tr><th scope='col'>model</th><th scope='col'>round</th><th scope='col'>thumbs up</th>"
        f"<th scope='col'>share (95 %)</th></tr></thead><tbody>{rows}</tbody></table><p>{verdict}</p>"
        "<p class='quiet'>A conversation counts once, by its latest thumb. Nothing is promoted by these numbers: the "
        "gate of a round decides on held-out prompts.</p></main></body></html>"
    )


def _interval(value: dict[str, Any] | None, *, signed: bool = False) -> str:
    if value is None:
        return "–"
    interval = Interval.model_validate(value)
    sign = "+" if signed else ""
    return f"{interval.value:{sign}.3f} ({interval.low:{sign}.3f} to {interval.high:{sign}.3f})"
