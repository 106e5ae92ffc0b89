"""Renders the report of a file's checks: one HTML page that needs no network."""

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from components.checks.file_check import FileResult
from components.checks.outcome import CheckResult
from components.checks.registry import CHECKS

ORDER = ("fail", "warn", "pass", "skipped")
TITLES = {check.name: check.title for check in CHECKS}
REMEDIES = {check.name: check.remedy for check in CHECKS}


def render_page(result: FileResult) -> str:
    """Return the page of a result, with what needs attention first."""
    ranked = sorted(result.checks, key=lambda check: ORDER.index(check.verdict))
    counts = {name: sum(check.verdict == name for check in result.checks) for name in ORDER}
    shown = [check for check in ranked if check.examples or check.bars or check.verdict in ("fail", "warn")]
    quiet = [check for check in ranked if check not in shown]
    return _template().render(
        result=result, checks=ranked, shown=shown, quiet=quiet, counts=counts, headline=_headline(result)
    )


def _headline(result: FileResult) -> str:
    failed = [TITLES[check.name].lower() for check in result.checks if check.verdict == "fail"]
    warned = [TITLES[check.name].lower() for check in result.checks if check.verdict == "warn"]
    if failed:
        return f"Do not train on this yet: {', '.join(failed)}."
    return f"Usable, with doubts: {', '.join(warned)}." if warned else "Every check is within its limit."


def _percent(share: float) -> str:
    """Return a share as a percentage that is not rounded to nothing, without zeros at its end."""
    text = f"{100 * share:.2f}" if share < 0.1 else f"{100 * share:.1f}"
    return f"{text.rstrip('0').rstrip('.')}%" if share < 0.00005 or float(text) else "under 0.01%"


def _gauge(check: CheckResult) -> tuple[float, float]:
    """Return the lengths of a check's bar and of its limit's mark, in percent of a bar that shows both."""
    whole = max(check.share or 0.0, check.max_share) * 1.25 or 1.0
    return 100 * (check.share or 0.0) / whole, 100 * check.max_share / whole


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    environment.filters["gauge"] = _gauge
    environment.filters["title_of"] = TITLES.__getitem__
    environment.filters["remedy_of"] = REMEDIES.__getitem__
    return environment.get_template("page.html.j2")
