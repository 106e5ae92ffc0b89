"""Trace a registered model by digests back to the prompts and the start model, and verify the files behind it.

MLflow names the round of a version; everything else is read from the campaign's files.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.campaign.files import CampaignFiles, read_campaign
from components.campaign.known_digests import KnownDigests
from components.campaign.state import campaign_directory, known_state, read_state, runs_directory
from components.history.names import VersionName
from components.history.stored import Condition
from components.history.tree import FILE, ModelTree, Node, walk
from components.records import RoundRecord


@dataclass(frozen=True)
class Lineage:
    """A model version with every model behind it."""

    version: str
    aliases: tuple[str, ...]
    campaign: str
    models: tuple[Node, ...]
    """The version's own model, then all models that it goes back to as origin or reference, newest first; the start
    model is the last."""

    @property
    def damaged(self) -> list[str]:
        """Paths of files that are missing or differ from what was published.

        Weights that `ratchet gc` removed are not among them.
        """
        return _damaged(self.models, "changed", "gone")

    def plain(self) -> dict[str, Any]:
        """Return the lineage as JSON values."""
        return asdict(self) | {"damaged": self.damaged}


def read_lineage(name: VersionName) -> Lineage:
    """Trace a version back to the start model.

    Raises:
        ValueError: The version or alias does not exist, or no round of the campaign belongs to it.
        TrackingUnavailable: MLflow cannot be reached.
    """
    from components.tracking import Version, read_versions  # loads mlflow, which takes seconds

    versions: list[Version] = read_versions(runs_directory(), name.model)
    matches = [each for each in versions if name.version == each.version or name.alias in each.aliases]
    if not matches:
        names = [
            *(str(each.version) for each in versions),
            *(f"@{alias}" for each in versions for alias in each.aliases),
        ]
        raise ValueError(
            f"model version {name} does not exist in MLflow: {name.model} has {', '.join(names) or 'none'}"
        )
    version = matches[0]
    known_state(name.model)
    campaign = read_campaign(campaign_directory(name.model))
    record = _record_of(campaign, version.tags, name)
    shas = {each.tags.get("policy_digest", ""): each.tags["git_sha"] for each in versions if "git_sha" in each.tags}
    return Lineage(
        version=f"{name.model}/{version.version}",
        aliases=version.aliases,
        campaign=campaign.name,
        models=tuple(tree.node() for tree in _ancestry(campaign, record.round, shas, KnownDigests(None))),
    )


def check_published(directory: Path, *, accept_changes: bool, known: KnownDigests) -> list[str]:
    """Check that the files behind a campaign's champion are what was published, as `ratchet lineage` does.

    Round 0 is left out: a start checks it, and publishes it again if it is damaged.

    Args:
        directory: The campaign's directory, which may not exist yet.
        accept_changes: Whether to continue although a file that is not weights has changed.
        known: Digests of files that were read before.

    Returns:
        Lines about files that are gone or changed and yet do not stop the campaign.

    Raises:
        ValueError: A file has changed; one line that names it.
    """
    state = read_state(directory)
    if state is None or not state.rounds or state.champion.round == 0:
        return []
    campaign = read_campaign(directory)
    rounds = [tree for tree in _ancestry(campaign, state.champion.round, {}, known) if tree.round]
    nodes = tuple(tree.node() for tree in rounds)
    changed, gone = (_damaged(nodes, condition) for condition in ("changed", "gone"))
    weights = [path for path in changed if path.endswith(".safetensors")]
    if changed and (weights or not accept_changes):
        accept = "" if weights else ", or pass --accept-changes to continue without them"
        raise ValueError(
            f"published files of campaign {directory.name} have changed ({_some(changed)}): restore them{accept}"
        )
    lines = {"published files have changed": changed, "published files are gone": gone}
    return [f"{line}: {_some(paths)}" for line, paths in lines.items() if paths]


def _some(paths: list[str]) -> str:
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")


def _damaged(models: tuple[Node, ...], *conditions: Condition) -> list[str]:
    nodes = [node for node in walk(models) if node.condition in conditions]
    files = [node for node in nodes if not any(child.what == FILE for child in node.children)]
    return list(dict.fromkeys(node.path for node in files if node.path is not None))


def _record_of(campaign: CampaignFiles, tags: dict[str, str], name: VersionName) -> RoundRecord:
    for record in campaign.finished:
        if (str(record.round), record.policy_digest) == (tags.get("round"), tags.get("policy_digest")):
            return record
    raise ValueError(
        f"{name} does not belong to a round in {campaign.directory}: an earlier campaign with this name trained it, "
        "and its files no longer exist"
    )


def _ancestry(campaign: CampaignFiles, round: int, git_shas: dict[str, str], known: KnownDigests) -> list[ModelTree]:
    """Return the round's model and every model behind it, as origin or as reference, newest first.

    The start model is the last.
    """
    trees, pending = dict[int, ModelTree](), [round]
    while pending:
        number = pending.pop()
        if number not in trees:
            trees[number] = ModelTree(campaign, number, git_shas, known)
            pending += [parent for parent in trees[number].parents if parent is not None]
    return [trees[number] for number in sorted(trees, reverse=True)]
