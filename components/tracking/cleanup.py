"""Delete MLflow's copies of rounds' weights to free disk space. Runs, versions, tags, numbers and small files stay."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.entities.model_registry import ModelVersion
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from components.campaign.state import read_state
from components.records import RoundRecord
from components.tracking.registry import aliases_of, find_own_model, find_version
from components.tracking.runs import find_experiment
from components.tracking.store import connected, store_exists

WEIGHTS_TAG, COLLECTED = "weights", "collected"


def collect_copies(campaign_dir: Path, records: Sequence[RoundRecord], *, dry_run: bool) -> dict[int, int]:
    """Remove the files of the rounds' logged models, and tag model and version `weights: collected`. Idempotent.

    A version that has an alias stays whole, because it may be in use under that name. The tags are set first, so that
    they mark a model of which a killed process removed only a part.

    Args:
        campaign_dir: runs/<campaign>.
        records: The rounds.
        dry_run: Measure the sizes, and change nothing.

    Returns:
        Bytes by round; a round without a model in this store, whose version has an alias, or whose files lie somewhere
        else is absent.

    Raises:
        NameTaken: Another campaign with this name is in MLflow; nothing of it was changed.
        TrackingUnavailable: MLflow cannot be reached or written; call again later.
    """
    state = read_state(campaign_dir)
    assert state is not None, campaign_dir
    if not store_exists(campaign_dir.parent):
        return {}
    freed: dict[int, int] = {}
    with connected(campaign_dir.parent) as client:
        experiment = find_experiment(client, campaign_dir, state)
        if experiment is None:
            return {}
        find_own_model(client, campaign_dir, state)
        in_use = set(aliases_of(client, campaign_dir.name).values())
        for record in records:
            version = find_version(client, campaign_dir.name, record.round, record.policy_digest)
            models = _models(client, experiment.experiment_id, record)
            if not models or (version is not None and int(version.version) in in_use):
                continue
            sizes = [sum(_file_sizes(client, model.model_id, "")) for model in models]
            if not any(sizes) and not any(model.tags.get(WEIGHTS_TAG) == COLLECTED for model in models):
                continue  # an earlier version's server kept them in a folder that we do not know
            freed[record.round] = sum(sizes)
            if not dry_run:
                _tag(client, campaign_dir.name, version, models)
                for model, size in zip(models, sizes, strict=True):
                    if size:
                        get_artifact_repository(model.artifact_location).delete_artifacts()
    return freed


def _models(client: MlflowClient, experiment_id: str, record: RoundRecord) -> list[LoggedModel]:
    where = f"tags.round = '{record.round}' AND tags.policy_digest = '{record.policy_digest}'"
    return list(client.search_logged_models([experiment_id], filter_string=where))


def _file_sizes(client: MlflowClient, model_id: str, folder: str) -> Iterator[int]:
    for entry in client.list_logged_model_artifacts(model_id, folder or None):
        if entry.is_dir:
            yield from _file_sizes(client, model_id, entry.path)
        else:
            yield entry.file_size


def _tag(client: MlflowClient, name: str, version: ModelVersion | None, models: Sequence[LoggedModel]) -> None:
    if version is not None and version.tags.get(WEIGHTS_TAG) != COLLECTED:
        client.set_model_version_tag(name, str(version.version), WEIGHTS_TAG, COLLECTED)
    for model in models:
        if model.tags.get(WEIGHTS_TAG) != COLLECTED:
            client.set_logged_model_tags(model.model_id, {WEIGHTS_TAG: COLLECTED})
