"""Register a round's challenger as a model version, and move the aliases `champion` and `challenger`.

The version's files are those of the model directory and its card, with nothing around them. So
`AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` load what `models:/<campaign>@champion`
downloads.
"""

import json
import tempfile
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelStatus, Run
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException

from components.campaign.state import State
from components.records import Record
from components.tracking.card import CARD, card, version_description
from components.tracking.contents import model_directory
from components.tracking.facts import RoundFacts, lineage
from components.tracking.ownership import claim_model, owner_tags
from components.tracking.store import connected, store_exists, uploading

CHAMPION, CHALLENGER = "champion", "challenger"
_VERSIONS_TAG = "mlflow.modelVersions"  # how MLflow's page of a logged model finds its registered version


def ensure_model(client: MlflowClient, run: Run, facts: RoundFacts) -> str | None:
    """Upload the challenger's directory as the run's logged model, unless that was done, and return the model's id.

    Returns:
        The id; None if there is neither a logged model nor a directory to upload.
    """
    where = f"source_run_id = '{run.info.run_id}' AND tags.policy_digest = '{facts.record.policy_digest}'"
    models = list(client.search_logged_models([run.info.experiment_id], filter_string=where))
    ready = [model for model in models if model.status == LoggedModelStatus.READY]
    if ready:
        return str(ready[0].model_id)
    directory = model_directory(facts)
    if directory is None:
        return None
    model = models[0] if models else _create_model(client, run, facts, kind=directory.name)
    with uploading(max((path.stat().st_size for path in directory.rglob("*")), default=0)):
        client.log_model_artifacts(model.model_id, str(directory))
    _add_card(client, model.model_id, facts, kind=directory.name)
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    return str(model.model_id)


def _create_model(client: MlflowClient, run: Run, facts: RoundFacts, *, kind: str) -> LoggedModel:
    name = f"round-{facts.record.round:03d}"
    return client.create_logged_model(
        run.info.experiment_id, name, run.info.run_id, tags=lineage(facts), model_type=kind
    )


def _add_card(client: MlflowClient, model_id: str, facts: RoundFacts, *, kind: str) -> None:
    """Write the card beside the weights; it replaces the empty card that peft saves with an adapter."""
    with tempfile.TemporaryDirectory() as staging:
        path = Path(staging, CARD)
        path.write_text(card(facts, model_id=model_id, kind=kind), encoding="utf-8")
        with uploading(path.stat().st_size):
            client.log_model_artifact(model_id, str(path))


def ensure_version(client: MlflowClient, model_id: str, run: Run, facts: RoundFacts) -> int:
    """Register the logged model as a version of the campaign's model, unless that was done, and return the version."""
    name = facts.campaign
    version = find_version(client, name, facts.record.round, facts.record.policy_digest)
    if version is None:
        ensure_registered_model(client, facts.campaign_dir, facts.state)
        version = client.create_model_version(
            name,
            source=f"models:/{model_id}",
            run_id=run.info.run_id,
            tags=lineage(facts),
            description=version_description(facts, model_id=model_id),
            model_id=model_id,
            await_creation_for=0,  # waiting could take minutes; SQL registries create the version at once
        )
    link = json.dumps([{"name": name, "version": str(version.version)}])
    if client.get_logged_model(model_id).tags.get(_VERSIONS_TAG) != link:
        client.set_logged_model_tags(model_id, {_VERSIONS_TAG: link})
    return int(version.version)


def find_version(client: MlflowClient, name: str, round: int, policy_digest: str) -> ModelVersion | None:
    """Return the version of a round's challenger; None if it is not registered."""
    where = f"name = '{name}' and tags.round = '{round}' and tags.policy_digest = '{policy_digest}'"
    return min(client.search_model_versions(where), key=lambda version: int(version.version), default=None)


def find_registered_model(client: MlflowClient, name: str) -> RegisteredModel | None:
    """Return the registered model with a campaign's name; None before its first version."""
    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def find_own_model(client: MlflowClient, campaign_dir: Path, state: State) -> RegisteredModel | None:
    """Return the campaign's registered model; None before its first version.

    Raises:
        NameTaken: The registered model with the campaign's name belongs to another campaign.
    """
    model = find_registered_model(client, campaign_dir.name)
    if model is not None:
        claim_model(client, campaign_dir, state, model)
    return model


def ensure_registered_model(client: MlflowClient, campaign_dir: Path, state: State) -> None:
    """Create the campaign's registered model if it is missing.

    Raises:
        NameTaken: The registered model with the campaign's name belongs to another campaign.
    """
    if find_own_model(client, campaign_dir, state) is None:
        name = campaign_dir.name
        note = (
            f"Policies of campaign {name}, one version per round. "
            "The next round starts from `champion`; `challenger` is the newest."
        )
        client.create_registered_model(name, tags=owner_tags(campaign_dir, state), description=note)


def move_challenger(client: MlflowClient, version: int, facts: RoundFacts) -> None:
    """Point `challenger` at the newest round's version; an older round that is recorded late does not move it."""
    newest = _round_of(client, facts.campaign, facts.state, aliases_of(client, facts.campaign).get(CHALLENGER))
    if newest is None or newest < facts.record.round:
        client.set_registered_model_alias(facts.campaign, CHALLENGER, str(version))


def move_champion(client: MlflowClient, name: str, state: State) -> None:
    """Point `champion` at the version of campaign.json's champion.

    If the champion is the start model, the alias is deleted. If the champion is not registered yet, the alias stays
    until the champion is recorded. An alias that belongs to an earlier campaign of this name is deleted.

    Args:
        client: Client of the store.
        name: Name of the campaign and of its registered model.
        state: The campaign's state.
    """
    alias, champion = aliases_of(client, name).get(CHAMPION), state.champion
    version = find_version(client, name, champion.round, champion.digest) if champion.round else None
    if version is not None:
        if alias != int(version.version):
            client.set_registered_model_alias(name, CHAMPION, str(version.version))
    elif alias is not None and (champion.round == 0 or _round_of(client, name, state, alias) is None):
        client.delete_registered_model_alias(name, CHAMPION)


def aliases_of(client: MlflowClient, name: str) -> dict[str, int]:
    """Return the versions of a registered model by their aliases; empty before its first version."""
    model = find_registered_model(client, name)
    return {} if model is None else {alias: int(version) for alias, version in model.aliases.items()}


def _round_of(client: MlflowClient, name: str, state: State, version: int | None) -> int | None:
    """Return the round of this campaign to which a version belongs; None if there is none."""
    if version is None:
        return None
    tags = client.get_model_version(name, str(version)).tags
    return next(
        (record.round for record in state.rounds if (str(record.round), record.policy_digest) == _identity(tags)), None
    )


def _identity(tags: dict[str, str]) -> tuple[str | None, str | None]:
    return tags.get("round"), tags.get("policy_digest")


class Version(Record):
    """A version of a registered model."""

    version: int
    aliases: tuple[str, ...]
    tags: dict[str, str]
    """All tags; `round`, `policy_digest` and `git_sha` are its lineage."""


def read_versions(runs: Path, name: str) -> list[Version]:
    """Return all versions of a registered model, oldest first; empty if MLflow has no such model.

    Args:
        runs: Directory that holds the campaigns' directories.
        name: Name of the campaign and of its registered model.

    Raises:
        TrackingUnavailable: MLflow cannot be reached.
    """
    if not store_exists(runs):
        return []
    with connected(runs) as client:
        if find_registered_model(client, name) is None:
            return []
        page = client.search_model_versions(f"name = '{name}'")
        entries = list(page)
        while page.token:
            page = client.search_model_versions(f"name = '{name}'", page_token=page.token)
            entries += page
        aliases = aliases_of(client, name)
    versions = [
        Version(
            version=int(each.version),
            aliases=tuple(sorted(alias for alias, version in aliases.items() if version == int(each.version))),
            tags=dict(each.tags),
        )
        for each in entries
    ]
    return sorted(versions, key=lambda each: each.version)
