"""Principles that answers are held to: a YAML list of `{name, text, weight}`, one of ours or a file of the user's.

Knows no judge.
"""

from collections import Counter
from pathlib import Path

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from components.config.section import Section
from components.config.shipped import conf_path

OURS = "judges/principles"


class Principle(Section):
    """One thing that a good answer does."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _-]*$", max_length=64)
    """Short name; verdicts and violation rates carry it."""
    text: str = Field(min_length=1)
    """What a good answer does, as the judge is told."""
    weight: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)
    """Votes that the principle has."""


def load_principles(name: str) -> tuple[Principle, ...]:
    """Reads the principles of that name: one of ours, or a YAML file.

    Raises:
        ValueError: There are none, or something is wrong with them; one line that names it and the remedy.
    """
    path = _find(name)
    try:
        principles = TypeAdapter(tuple[Principle, ...]).validate_python(
            yaml.safe_load(path.read_text(encoding="utf-8"))
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        where = f"{place}: " if place else ""
        raise ValueError(
            f"judge.principles {name}: {where}{first['msg']}; write a list of `{{name: ..., text: ..., weight: 1}}`"
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"judge.principles {name} cannot be read: {' '.join(str(error).split())}") from None
    if not principles:
        raise ValueError(
            f"judge.principles {name} holds no principles: write a list of `{{name: ..., text: ..., weight: 1}}`"
        )
    twice = [known for known, count in Counter(principle.name for principle in principles).items() if count > 1]
    if twice:
        raise ValueError(f"judge.principles {name} names {twice[0]} twice: verdicts are told apart by the name")
    return principles


def _find(name: str) -> Path:
    ours = {path.stem: path for path in conf_path(OURS).glob("*.yaml")}
    if name in ours:
        return ours[name]
    path = Path(name).expanduser()
    if not path.is_file():
        raise ValueError(
            f"judge.principles {name} is neither a file nor one of ours: use {', '.join(sorted(ours))}, or name a YAML file"
        )
    return path
