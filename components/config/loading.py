"""Read YAML files into configurations, and say in one line what is wrong with one."""

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from components.config.campaign import CampaignConfig
from components.config.paths import with_absolute_paths

Loaded = TypeVar("Loaded", bound=BaseModel)


def load_config(path: Path, overrides: Mapping[str, Any] | None = None) -> CampaignConfig:
    """Read a sparse YAML file into a full configuration of a campaign.

    Args:
        path: YAML file whose keys are a subset of `CampaignConfig`'s. Relative paths in it mean beside it.
        overrides: Values that win over the file's; a section's keys are replaced one by one. Relative paths in them
            mean in the current directory.

    Raises:
        ValueError: As `load_section`.
    """
    return load_section(path, CampaignConfig, overrides)


def load_section(path: Path, section: type[Loaded], overrides: Mapping[str, Any] | None = None) -> Loaded:
    """Read a sparse YAML file into a section with all its keys.

    Args:
        path: YAML file whose keys are a subset of the section's.
        section: The section.
        overrides: As of `load_config`.

    Raises:
        ValueError: The file cannot be read or parsed, or a key or value in it is wrong; one line that names it and the
            remedy.
    """
    values = _read_yaml(path)
    try:
        given = with_absolute_paths(values, section, path.absolute().parent)
        return section.model_validate(merged(given, with_absolute_paths(overrides or {}, section, Path.cwd())))
    except ValidationError as error:
        raise ValueError(f"config file {path}: {describe(error, section)}") from None


def load_settings(path: Path | None, section: type[Loaded], settings: Sequence[str]) -> Loaded:
    """Read a section from a command's `--config` and `--set`.

    Args:
        path: As of `load_section`; None without a file.
        section: The section.
        settings: As of `read_settings`; they win over the file's.

    Raises:
        ValueError: As `load_section` and `read_settings`.
    """
    overrides = read_settings(settings)
    if path is not None:
        return load_section(path, section, overrides)
    try:
        return section.model_validate(with_absolute_paths(overrides, section, Path.cwd()))
    except ValidationError as error:
        raise ValueError(f"--set: {describe(error, section)}") from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"config file {path.absolute()} does not exist: name a YAML file, such as conf/demo.yaml"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"config file {path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"config file {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ValueError(f"config file {path} is not a mapping: its top level must be `key: value` lines")
    return values


def read_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Read `key=value` settings into overrides for `load_config`.

    Args:
        settings: Each a key with dots between sections and a YAML value, such as `policy.model=./my-model`; a later one
            wins.

    Raises:
        ValueError: One has another form; one line that names it.
    """
    overrides: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise ValueError(f"--set {setting} is not a setting: write key=value, such as policy.model=./my-model")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"--set {setting} is not valid YAML: {' '.join(str(error).split())}") from None
        overrides = merged(overrides, nested({key.strip(): value}))
    return overrides


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by dotted keys as sections within sections, as a YAML file has them."""
    sections: dict[str, Any] = {}
    for key, value in values.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        sections = merged(sections, value)
    return sections


def merged(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with those that win over them; a section's keys are replaced one by one."""
    result = dict(values)
    for key, value in overrides.items():
        below = result.get(key)
        result[key] = (
            merged(below if isinstance(below, Mapping) else {}, value) if isinstance(value, Mapping) else value
        )
    return result


def describe(error: ValidationError, section: type[BaseModel] = CampaignConfig) -> str:
    """Say in one line what is wrong with a section, or a whole configuration: the key, the value and the remedy."""
    items = [item for item in error.errors(include_url=False) if item["type"] != "default_factory_not_called"]
    return "; ".join(_describe_one(item, section) for item in items)


def _describe_one(item: Mapping[str, Any], section: type[BaseModel]) -> str:
    location = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        *parents, key = item["loc"]
        known = list(_section_at(section, parents).model_fields)
        nearest = difflib.get_close_matches(str(key), known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"known here: {', '.join(known)}"
        return f"unknown key {location}; {hint}"
    if item["type"] == "missing":
        return f"{location} is missing: add it"
    message = item["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(item["input"], dict) else f" = {json.dumps(item['input'], default=str)}"
    # A rule over several sections has no place of its own.
    return f"{location}{shown}: {message}" if location else message


def _section_at(section: type[BaseModel], parents: list[Any]) -> type[BaseModel]:
    for name in parents:
        if isinstance(name, int):  # a place in a list, whose section is known already
            continue
        annotation = section.model_fields[name].annotation
        section = next(
            inner
            for inner in (annotation, *get_args(annotation))
            if isinstance(inner, type) and issubclass(inner, BaseModel)
        )
    return section


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """List the keys in which two resolved configurations differ, as `key: old -> new`."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {json.dumps(before)} -> {json.dumps(after)}")
    return lines
