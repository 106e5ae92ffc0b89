"""Read and pin the configurations of a campaign, and refuse changes between two of its starts."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from components.artifacts import read_json, write_json
from components.campaign.state import read_state
from components.config import CampaignConfig, EndpointConfig, FeedbackConfig, PeopleConfig, differences
from components.config.paths import is_same_path
from components.config.section import Section

CONFIG = "config.json"
REPLACED_CONFIG = "config-until-round-{:03d}.json"
FREE_TO_CHANGE = ("num_rounds", "budget", "tracking", "launcher")
"""Keys that may differ between two starts of a campaign, because no round's result depends on them."""


def with_former_defaults(directory: Path, config: CampaignConfig) -> CampaignConfig:
    """Return the configuration with the defaults and relative paths with which the campaign began.

    A key that the configuration leaves out does not change because a later version has another default for it, and a
    path that an earlier version pinned as it was written does not because it is absolute now.
    """
    if not (directory / CONFIG).exists():
        return config
    pinned = read_json(directory / CONFIG)
    former = {name: _former(section, pinned.get(name, {})) for name, section in config if isinstance(section, Section)}
    config = config.model_copy(
        update={name: getattr(config, name).model_copy(update=values) for name, values in former.items() if values}
    )
    return _with_former_paths(config, pinned)


def _with_former_paths(value: Any, pinned: Any) -> Any:
    """Return a section, or several, with the relative paths that are pinned, if they still lead to the same place."""
    if isinstance(value, tuple) and isinstance(pinned, list) and len(value) == len(pinned):
        items = tuple(_with_former_paths(each, other) for each, other in zip(value, pinned, strict=True))
        return value if items == value else items
    if not isinstance(value, Section) or not isinstance(pinned, dict):
        return value
    update: dict[str, Any] = {}
    for name, own in value:
        before = pinned.get(name)
        if name in value.PATHS and isinstance(before, str) and is_same_path(name, before, own):
            update[name] = before
        elif (within := _with_former_paths(own, before)) is not own:
            update[name] = within
    return value.model_copy(update=update) if update else value


def _former(section: Section, pinned: dict[str, Any]) -> dict[str, Any]:
    """Return the former defaults that a section keeps: those of keys that it leaves out and the campaign began with."""
    return {
        name: value
        for name, value in section.FORMER_DEFAULTS.items()
        if name not in section.model_fields_set and pinned.get(name, value) == value
    }


def refuse_changes(directory: Path, config: CampaignConfig) -> None:
    """Refuse a configuration that differs from the campaign's in more than `FREE_TO_CHANGE`.

    Raises:
        ValueError: They differ; the message names the keys and how to continue.
    """
    changed = config_changes(directory, config)
    if changed:
        raise ValueError(
            f"the config of campaign {config.campaign} has changed ({'; '.join(changed)}): undo the change, "
            "choose another campaign name, or pass --accept-changes to continue with the new config"
        )


def pin_config(directory: Path, config: CampaignConfig, *, accept_changes: bool) -> None:
    """Write the resolved configuration at the first start, and again if a change is accepted.

    What MLflow and the Prefect page get, the launcher, and what users are promised of their thumbs are written at each
    start: they hold from then on.

    Raises:
        ValueError: The configuration changed and `accept_changes` is false.
    """
    if not accept_changes:
        refuse_changes(directory, config)
    if not (directory / CONFIG).exists():
        write_json(directory / CONFIG, config.model_dump(mode="json"))
    elif config_changes(directory, config):
        _keep_config(directory)
        write_json(directory / CONFIG, config.model_dump(mode="json"))
    else:
        pinned = read_json(directory / CONFIG)
        present = pinned | config.model_dump(mode="json", include={"tracking", "launcher"})
        present["preferences"] = _with_present_feedback(pinned["preferences"], config)
        if present != pinned:
            write_json(directory / CONFIG, present)


def _with_present_feedback(preferences: dict[str, Any], config: CampaignConfig) -> dict[str, Any]:
    """Return the pinned section with the keys of `feedback` that are free to change as they are now."""
    now = config.preferences.feedback
    if "feedback" not in preferences and now == type(now)():
        return preferences  # an earlier version wrote it, and nothing changes
    values = now.model_dump(mode="json")
    free = {name: values[name] for name in now.FREE_TO_CHANGE}
    return preferences | {"feedback": preferences.get("feedback", values) | free}


def _keep_config(directory: Path) -> None:
    """Copy the configuration of the finished rounds to a file of its own.

    An existing copy stays: it is theirs, because no round ran between two changes.
    """
    state = read_state(directory)
    copy = directory / REPLACED_CONFIG.format(state.last_round if state else 0)
    if state and state.rounds and not copy.exists():
        write_json(copy, read_json(directory / CONFIG))


def config_of_round(directory: Path, round: int) -> dict[str, Any]:
    """Return the resolved configuration under which a round ran.

    It is the first one that was replaced after the round, else the present one.
    """
    replaced = {int(path.stem.rpartition("-")[2]): path for path in directory.glob("config-until-round-*.json")}
    later = [last for last in replaced if last >= round]
    return read_json(replaced[min(later)] if later else directory / CONFIG)


def config_changes(directory: Path, config: CampaignConfig) -> list[str]:
    """Return the keys that differ from the campaign's in more than `FREE_TO_CHANGE`, as `key: then -> now`."""
    if not (directory / CONFIG).exists():
        return []
    new = config.model_dump(mode="json")
    old = _resolved(read_json(directory / CONFIG)) | {key: new[key] for key in FREE_TO_CHANGE}
    return differences(_pinned(_without_free_keys(old)), _pinned(_without_free_keys(new)))


def _without_free_keys(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration without the keys of its sections that no result depends on."""
    free = {
        name: getattr(field.annotation, "FREE_TO_CHANGE", ()) for name, field in CampaignConfig.model_fields.items()
    }
    return {
        name: {key: item for key, item in value.items() if key not in free[name]} if free.get(name) else value
        for name, value in config.items()
    }


def _pinned(config: Any) -> Any:
    """Return a configuration without what is free to change about endpoints and people, at any depth."""
    if isinstance(config, list):
        return [_pinned(item) for item in config]
    if not isinstance(config, dict):
        return config
    fields = {key: _pinned(value) for key, value in config.items()}
    for section, free in (
        ("endpoint", EndpointConfig.FREE_TO_CHANGE),
        ("people", PeopleConfig.FREE_TO_CHANGE),
        ("feedback", FeedbackConfig.FREE_TO_CHANGE),
    ):
        if isinstance(fields.get(section), dict):
            fields[section] = {name: value for name, value in fields[section].items() if name not in free}
    return fields


def _resolved(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of an earlier version, with the knobs added since then at their defaults."""
    try:
        return CampaignConfig.model_validate(with_former_knobs(config)).model_dump(mode="json")
    except ValidationError:  # a knob that no longer exists: the comparison names it
        return config


def with_former_knobs(config: dict[str, Any]) -> dict[str, Any]:
    """Return a pinned configuration with the knobs that it lacks because an earlier version wrote it.

    A knob that has a former default gets it: the campaign goes on as it began.
    """
    sections = {name: field.annotation for name, field in CampaignConfig.model_fields.items()}
    former = {
        name: section.FORMER_DEFAULTS | config.get(name, {})
        for name, section in sections.items()
        if isinstance(section, type) and issubclass(section, Section) and section.FORMER_DEFAULTS
    }
    return config | former
