"""The configurations that a campaign began with, went on with, and what may differ between two starts."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from components.artifacts import read_json, write_json
from components.campaign.state import read_state
from components.config import CampaignConfig, EndpointConfig, differences

CONFIG = "config.json"
REPLACED_CONFIG = "config-until-round-{:03d}.json"
FREE_TO_CHANGE = ("num_rounds", "budget")
"""What may differ between a campaign's starts, because no round's result depends on it."""


def refuse_changes(directory: Path, config: CampaignConfig) -> None:
    """Compares a configuration with the one the campaign began with, but for what is free to change.

    Raises:
        ValueError: They differ; the message says where and how to go on.
    """
    changed = _changes(directory, config)
    if changed:
        raise ValueError(
            f"campaign {config.campaign} began with another config ({'; '.join(changed)}): change it back, choose another campaign name, "
            "or pass --accept-changes to go on with the new one"
        )


def pin_config(directory: Path, config: CampaignConfig, *, accept_changes: bool) -> None:
    """Writes the resolved configuration the first time, and again when a change of it is accepted.

    Raises:
        ValueError: It changed, and `accept_changes` is false.
    """
    if not accept_changes:
        refuse_changes(directory, config)
    if not (directory / CONFIG).exists():
        write_json(directory / CONFIG, config.model_dump(mode="json"))
    elif _changes(directory, config):
        _keep_config(directory)
        write_json(directory / CONFIG, config.model_dump(mode="json"))


def _keep_config(directory: Path) -> None:
    """Sets the configuration of the finished rounds aside.

    One that is there already is theirs: no round ran between two changes.
    """
    state = read_state(directory)
    kept = directory / REPLACED_CONFIG.format(state.last_round if state else 0)
    if state and state.rounds and not kept.exists():
        write_json(kept, read_json(directory / CONFIG))


def config_of_round(directory: Path, round: int) -> dict[str, Any]:
    """The resolved configuration under which a round ran.

    The first one that was replaced after it, else the present one.
    """
    replaced = {int(path.stem.rpartition("-")[2]): path for path in directory.glob("config-until-round-*.json")}
    later = [last for last in replaced if last >= round]
    return read_json(replaced[min(later)] if later else directory / CONFIG)


def _changes(directory: Path, config: CampaignConfig) -> list[str]:
    if not (directory / CONFIG).exists():
        return []
    new = config.model_dump(mode="json")
    return differences(
        _fixed(_resolved(read_json(directory / CONFIG)) | {key: new[key] for key in FREE_TO_CHANGE}), _fixed(new)
    )


def _fixed(written: Any) -> Any:
    """A configuration without what its endpoints are free to change, wherever in it they stand."""
    if isinstance(written, list):
        return [_fixed(item) for item in written]
    if not isinstance(written, dict):
        return written
    kept = {key: _fixed(value) for key, value in written.items()}
    if isinstance(kept.get("endpoint"), dict):
        kept["endpoint"] = {
            name: value for name, value in kept["endpoint"].items() if name not in EndpointConfig.FREE_TO_CHANGE
        }
    return kept


def _resolved(written: dict[str, Any]) -> dict[str, Any]:
    """A configuration that an earlier version wrote, with the knobs that are new since then at their defaults."""
    try:
        return CampaignConfig.model_validate(written).model_dump(mode="json")
    except ValidationError:  # a knob that is no more: comparing names it
        return written
