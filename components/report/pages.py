"""Render a page that needs no network: its own template, with the style that all our reports share."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from components.artifacts import write_bytes

HERE = Path(__file__).parent
"""Folder of report.css, which templates include."""


def write_page(path: Path, template: Path, view: Mapping[str, Any], filters: Mapping[str, Callable[..., Any]]) -> Path:
    """Write a page and return its path.

    Args:
        path: The HTML file.
        template: The template; it may include `report.css`, and templates beside it.
        view: Everything that it shows. Texts are escaped.
        filters: Its filters by name.
    """
    environment = _environment(template.parent)
    environment.filters |= filters
    write_bytes(path, environment.get_template(template.name).render(view).encode())
    return path


@cache
def _environment(folder: Path) -> Environment:
    return Environment(
        loader=FileSystemLoader([folder, HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
