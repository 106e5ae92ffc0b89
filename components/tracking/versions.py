"""Reads the registered model of a campaign: which version is which round's, and what its tags say. Writes nothing."""

from pathlib import Path

from components.records import Record
from components.tracking.registry import aliases_of, find_registered_model
from components.tracking.store import connected, store_exists


class Version(Record):
    """A version of a registered model."""

    version: int
    aliases: tuple[str, ...]
    tags: dict[str, str]
    """Among them the campaign's lineage: `round`, `policy_digest`, `git_sha`."""


def read_versions(runs: Path, name: str) -> list[Version]:
    """All versions of a registered model, oldest first; empty where MLflow has no such model.

    Args:
        runs: Directory that holds the campaigns' directories.
        name: The registered model's name, which is its campaign's.

    Raises:
        TrackingUnavailable: MLflow cannot be reached.
    """
    if not store_exists(runs):
        return []
    with connected(runs) as client:
        if find_registered_model(client, name) is None:
            return []
        page = client.search_model_versions(f"name = '{name}'")
        found = list(page)
        while page.token:
            page = client.search_model_versions(f"name = '{name}'", page_token=page.token)
            found += page
        aliases = aliases_of(client, name)
    versions = [
        Version(
            version=int(each.version),
            aliases=tuple(sorted(alias for alias, version in aliases.items() if version == int(each.version))),
            tags=dict(each.tags),
        )
        for each in found
    ]
    return sorted(versions, key=lambda each: each.version)
