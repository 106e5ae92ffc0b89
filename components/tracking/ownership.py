"""Whose an experiment and a registered model are: campaigns of two people may have the same name in one MLflow.

Each carries the random id of its campaign as a tag. What carries another id is refused before anything is changed.
"""

import contextlib
import getpass
import socket
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.entities.model_registry import RegisteredModel

from components.campaign.state import State
from components.tracking.failures import TrackingRefused
from components.tracking.store import STORE, is_shared

CAMPAIGN_ID, OWNER = "campaign_id", "campaign_owner"
Tags = Mapping[str, str]


class NameTaken(TrackingRefused):
    """MLflow's experiment or registered model with the campaign's name belongs to another campaign."""


def owner_tags(campaign_dir: Path, state: State) -> dict[str, str]:
    """Return the tags that mark what belongs to a campaign; empty for one that has no id yet."""
    return {} if state.id is None else {CAMPAIGN_ID: state.id, OWNER: _owner(campaign_dir)}


def _owner(campaign_dir: Path) -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = "?"
    return f"{user}@{socket.gethostname()}:{campaign_dir.resolve()}"


def claim_experiment(client: MlflowClient, campaign_dir: Path, state: State, experiment: Experiment) -> None:
    """Check that an experiment belongs to the campaign, and mark it if nothing marks it yet.

    Raises:
        NameTaken: It belongs to another campaign.
    """

    def rounds() -> list[Tags]:
        found = client.search_runs([experiment.experiment_id], "tags.kind = 'round'", max_results=1000)
        return [run.data.tags for run in found]

    if _needs_mark(campaign_dir, state, f"experiment {experiment.name}", experiment.tags, rounds):
        for key, value in owner_tags(campaign_dir, state).items():
            client.set_experiment_tag(experiment.experiment_id, key, value)


def claim_model(client: MlflowClient, campaign_dir: Path, state: State, model: RegisteredModel) -> None:
    """Do the same for the registered model.

    Raises:
        NameTaken: It belongs to another campaign.
    """

    def rounds() -> list[Tags]:
        return [version.tags for version in client.search_model_versions(f"name = '{model.name}'")]

    if _needs_mark(campaign_dir, state, f"registered model {model.name}", model.tags, rounds):
        for key, value in owner_tags(campaign_dir, state).items():
            client.set_registered_model_tag(model.name, key, value)


def _needs_mark(campaign_dir: Path, state: State, what: str, tags: Tags, rounds: Callable[[], Sequence[Tags]]) -> bool:
    """Return whether the campaign's marks are to be set.

    In runs/mlflow.db all of a name belongs to the campaign, since no other directory writes there.
    """
    marked, runs = tags.get(CAMPAIGN_ID), campaign_dir.parent
    if is_shared(runs):
        # An earlier version marked nothing.
        if marked is None and not _holds_own_round(state, rounds()):
            raise _taken(what, "an earlier version or another program made it")
        if marked not in (None, state.id) and not _is_in_own_store(runs, marked):
            raise _taken(what, f"{marked}, {tags.get(OWNER, 'of an unknown owner')}")
    return marked != state.id


def _is_in_own_store(runs: Path, marked: str) -> bool:
    """Return whether runs/mlflow.db holds a campaign: the server is then one over that file, as `ratchet up` has."""
    if not (runs / STORE).exists():
        return False
    with contextlib.closing(sqlite3.connect(runs / STORE, timeout=15)) as database:
        return any(
            database.execute(f"SELECT 1 FROM {table} WHERE key = ? AND value = ?", (CAMPAIGN_ID, marked)).fetchone()
            for table in ("experiment_tags", "registered_model_tags")
        )


def _holds_own_round(state: State, rounds: Sequence[Tags]) -> bool:
    """Return whether one of the rounds, given by their tags, is the campaign's, or there are none."""
    own = {(str(record.round), record.policy_digest) for record in state.rounds}
    return not rounds or any((tags.get("round"), tags.get("policy_digest")) in own for tags in rounds)


def _taken(what: str, owner: str) -> NameTaken:
    return NameTaken(
        f"{what} in MLflow belongs to another campaign ({owner}): choose another campaign name, or, if that campaign "
        "is gone for good, rename its experiment and its registered model in MLflow"
    )
