"""Templates and the page with one thing to say, which every other page of the labelling server falls back to."""

from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

templates = Environment(
    loader=PackageLoader("components.labelling"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


class Refused(Exception):
    """A request that gets a page with one thing to say."""

    def __init__(self, status: int, heading: str, text: str) -> None:
        super().__init__(heading)
        self.status, self.heading, self.text = status, heading, text


def render(template: str, **values: object) -> HTMLResponse:
    """Return a page."""
    return HTMLResponse(templates.get_template(template).render(**values))


def message(status: int, heading: str, text: str) -> HTMLResponse:
    """Return a page with one thing to say."""
    page = templates.get_template("message.html.j2").render(heading=heading, text=text)
    return HTMLResponse(page, status_code=status)
