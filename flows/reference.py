"""The configuration reference, written from the docstrings of `components.config`.

For the command line and for the README.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, cast, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from components.config import CampaignConfig


def config_reference() -> str:
    """Every section of the configuration as a Markdown table: key, type and range, default, meaning."""
    top = {name: field for name, field in CampaignConfig.model_fields.items() if not _is_section(field)}
    told: dict[type[BaseModel], str] = {}
    tables = [
        table
        for name, field in CampaignConfig.model_fields.items()
        if _is_section(field)
        for table in _tables(name, field, told)
    ]
    return "\n".join(
        [_table("Top level", "A campaign: a named, long-lived sequence of rounds on one policy.", top), *tables]
    )


def _tables(name: str, field: FieldInfo, told: dict[type[BaseModel], str]) -> Iterator[str]:
    """A section's own table, and those of the sections in it; what `told` knows is named and not told again."""
    section = cast(type[BaseModel], field.annotation)
    if section in told:
        yield f"### `{name}`\n\n{_meaning(field)} Same keys as `{told[section]}`.\n"
        return
    told[section] = name
    # The kind says which of the others are read.
    keys = sorted(section.model_fields, key=lambda key: key != "kind")
    own = {key: section.model_fields[key] for key in keys if not _is_section(section.model_fields[key])}
    yield _table(f"`{name}`", (section.__doc__ or "").split("\n")[0], own)
    for key, inner in section.model_fields.items():
        if _is_section(inner):
            yield from _tables(f"{name}.{key}", inner, told)


def _table(title: str, about: str, fields: dict[str, FieldInfo]) -> str:
    rows = [f"| `{name}` | {_type(field)} | {_default(field)} | {_meaning(field)} |" for name, field in fields.items()]
    return (
        "\n".join([f"### {title}\n", f"{about}\n", "| key | type | default | meaning |", "|---|---|---|---|", *rows])
        + "\n"
    )


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _type(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(field.annotation))
    symbols = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
    bounds = [
        f"{symbol} {getattr(rule, name):g}"
        for rule in field.metadata
        for name, symbol in symbols
        if hasattr(rule, name)
    ]
    return " ".join([getattr(field.annotation, "__name__", str(field.annotation)), ", ".join(bounds)]).strip()


def _meaning(field: FieldInfo) -> str:
    # A row of a table is one line.
    return " ".join((field.description or "").split())


def _default(field: FieldInfo) -> str:
    return "required" if field.is_required() else f"`{json.dumps(field.default)}`"


def _write_into(readme: Path) -> None:
    text = readme.read_text(encoding="utf-8")
    begin, end = r"(<!-- reference: [^>]*-->\n)", r"(\n<!-- end of the reference -->)"
    written = re.sub(
        f"{begin}.*?{end}", lambda marks: f"{marks[1]}{config_reference().strip()}{marks[2]}", text, flags=re.DOTALL
    )
    readme.write_text(written, encoding="utf-8")


if __name__ == "__main__":
    _write_into(Path(sys.argv[1]))
