"""Relative paths in a YAML file mean beside the file, wherever a command or a worker runs."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from components.config.function import FUNCTION
from components.config.policy import BUILTIN

FILE_SUFFIXES = frozenset(
    {".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet", ".gz", ".zst", ".py", ".yaml", ".yml", ".txt", ".jinja"}
)
NAMES_OF_OURS = frozenset({"prompt", "principles", "tasks"})
"""Keys whose values without a slash or a suffix name what ships with us."""
log = logging.getLogger(__name__)


def with_absolute_paths(
    values: Mapping[str, Any], section: type[BaseModel], folder: Path, *, prefix: str = ""
) -> dict[str, Any]:
    """Return the values of a section with each path absolute; names of the hub and of ours stay.

    Args:
        values: Values as a YAML file or `--set` gives them, not checked yet.
        section: The section that they are for.
        folder: Directory that a relative path is relative to.
        prefix: The section's place in the configuration, for messages, with a dot at its end.

    Raises:
        ValueError: A value may be a mistyped path or a name of the hub; one line with both readings.
    """
    paths, result = getattr(section, "PATHS", ()), dict(values)
    for name, value in values.items():
        inner = _inner_section(section, name)
        if inner is not None and isinstance(value, Mapping):
            result[name] = with_absolute_paths(value, inner, folder, prefix=f"{prefix}{name}.")
        elif name in paths and isinstance(value, list | tuple):
            key = f"{prefix}{name}"
            result[name] = [absolute_path(key, item, folder) if isinstance(item, str) else item for item in value]
        elif inner is not None and isinstance(value, list):
            result[name] = [
                with_absolute_paths(item, inner, folder, prefix=f"{prefix}{name}.{number}.")
                if isinstance(item, Mapping)
                else item
                for number, item in enumerate(value)
            ]
        elif name in paths and isinstance(value, str):
            result[name] = absolute_path(f"{prefix}{name}", value, folder)
    return result


def absolute_path(key: str, value: str, folder: Path) -> str:
    """Return a value of the configuration with its path absolute, or as it is if it names something else.

    Args:
        key: Its field's place in the configuration.
        value: `FILE`, `DIRECTORY`, `FILE.py:NAME`, a name of the hub or one of ours.
        folder: Directory that a relative path is relative to.

    Raises:
        ValueError: As `with_absolute_paths`.
    """
    text, name = _file_and_function(key, value)
    path = Path(text).expanduser()
    of_ours = key.rpartition(".")[2] in NAMES_OF_OURS and not path.suffix and "/" not in text
    if not text or value == BUILTIN or of_ours:
        return value
    return f"{_absolute(key, value, path, folder) or text}{name}"


def is_same_path(key: str, before: str, now: str) -> bool:
    """Return whether a path that earlier versions pinned as it was written is the absolute one, which exists."""
    (former, former_name), (text, name) = (_file_and_function(key, value) for value in (before, now))
    if not former or Path(former).is_absolute() or name != former_name:
        return False
    file = Path(former).expanduser()
    return file.exists() and file.resolve() == Path(text).resolve()


def _file_and_function(key: str, value: str) -> tuple[str, str]:
    """Return the path in a value, empty if it names a module, and what follows the path."""
    match = FUNCTION.fullmatch(value) if key.rpartition(".")[2] == "function" else None
    text = (match["file"] or "") if match else value
    return text, value[len(text) :]


def _absolute(key: str, value: str, path: Path, folder: Path) -> Path | None:
    """Return the absolute path, or None if the value is a name of the hub."""
    if path.is_absolute():
        return path
    beside, here = (Path(os.path.normpath(root / path)) for root in (folder.resolve(), Path.cwd()))
    if beside.exists():
        if here.exists() and not here.samefile(beside):
            log.warning("%s = %s is %s, beside its file, and not %s", key, value, beside, here)
        return beside
    if here.exists():
        # As earlier versions read it.
        log.warning("%s = %s is %s, since %s does not exist: write that path", key, value, here, beside)
        return here
    if value.startswith(".") or path.suffix in FILE_SUFFIXES or len(path.parts) > 2:
        return beside
    for missing in (beside, here):
        if len(path.parts) == 2 and missing.parent.is_dir():
            raise ValueError(
                f"{key} = {value} is either the path {missing}, which does not exist, or a name of the hub: correct "
                f"the path, or rename the directory {missing.parent} if you mean the hub"
            )
    return None


def _inner_section(section: type[BaseModel], name: str) -> type[BaseModel] | None:
    """Return the section that a field holds, alone or several of."""
    field = section.model_fields.get(name)
    if field is None:
        return None
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None
