"""Principles that answers must keep: a YAML list of `{name, text, weight}`, a shipped one or a file of the user.

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
    """What a good answer does, in the words that the judge reads."""
    weight: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)
    """Number of votes of the principle."""


def load_principles(name: str) -> tuple[Principle, ...]:
    """Read the principles of a name: a shipped set, or a YAML file.

    Raises:
        ValueError: The file does not exist, is empty or is not valid; one line that names the fault and the remedy.
    """
    path = _find(name)
    try:
        principles = TypeAdapter(tuple[Principle, ...]).validate_python(
            yaml.safe_load(path.read_text(encoding="utf-8"))
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        location = f"{place}: " if place else ""
        raise ValueError(
            f"judge.principles {name}: {location}{first['msg']}; write a list of `{{name: ..., text: ..., weight: 1}}`"
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"judge.principles {name} cannot be read: {' '.join(str(error).split())}") from None
    if not principles:
        raise ValueError(f"judge.principles {name} is empty: write a list of `{{name: ..., text: ..., weight: 1}}`")
    repeated = [repeat for repeat, count in Counter(principle.name for principle in principles).items() if count > 1]
    if repeated:
        raise ValueError(
            f"judge.principles {name} has two principles with the name {repeated[0]}: give each a name of its own"
        )
    return principles


def _find(name: str) -> Path:
    ours = {path.stem: path for path in conf_path(OURS).glob("*.yaml")}
    if name in ours:
        return ours[name]
    path = Path(name).expanduser()
    if not path.is_file():
        raise ValueError(
            f"judge.principles {name} is neither a file nor a shipped set: use {', '.join(sorted(ours))}, "
            "or the path of a YAML file"
        )
    return path
