"""Reads a campaign's YAML file, and tells in one line what is wrong with one."""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from components.config.campaign import CampaignConfig


def load_config(path: Path, overrides: Mapping[str, Any] | None = None) -> CampaignConfig:
    """Reads a sparse YAML file into a full configuration.

    Args:
        path: YAML file whose keys are a subset of `CampaignConfig`'s.
        overrides: Values that win over the file's; a section's keys are replaced one by one.

    Raises:
        ValueError: The file cannot be read or parsed, or a key or value in it is wrong; one line that names it and the
            remedy.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"config file {path} does not exist: name a YAML file, such as conf/demo.yaml") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"config file {path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"config file {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ValueError(f"config file {path} is not a mapping: its top level must be `key: value` lines")
    try:
        return CampaignConfig.model_validate(_merged(values, overrides or {}))
    except ValidationError as error:
        raise ValueError(f"config file {path}: {describe(error)}") from None


def _merged(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, value in overrides.items():
        below = merged.get(key)
        merged[key] = _merged(below if isinstance(below, dict) else {}, value) if isinstance(value, Mapping) else value
    return merged


def describe(error: ValidationError) -> str:
    """Say in one line what is wrong with a configuration: the key, the value and the remedy."""
    items = [item for item in error.errors(include_url=False) if item["type"] != "default_factory_not_called"]
    return "; ".join(_describe_one(item) for item in items)


def _describe_one(item: Mapping[str, Any]) -> str:
    location = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        *parents, key = item["loc"]
        known = list(_section_at(parents).model_fields)
        nearest = difflib.get_close_matches(str(key), known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"known here: {', '.join(known)}"
        return f"unknown key {location}; {hint}"
    if item["type"] == "missing":
        return f"{location} is missing: add it"
    message = item["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(item["input"], dict) else f" = {json.dumps(item['input'], default=str)}"
    # A rule over several sections has no place of its own.
    return f"{location}{shown}: {message}" if location else message


def _section_at(parents: list[Any]) -> type[BaseModel]:
    section: type[BaseModel] = CampaignConfig
    for name in parents:
        annotation = section.model_fields[name].annotation
        assert isinstance(annotation, type)
        section = annotation
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
