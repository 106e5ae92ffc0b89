"""What a registered model was made from, by digests, down to the prompts and the start model, and whether the files still are that.

MLflow says which round a version is; everything else is read from the campaign's files.
"""

from dataclasses import asdict, dataclass
from typing import Any

from components.campaign.files import CampaignFiles, read_campaign
from components.campaign.state import campaign_directory, known_state, runs_directory
from components.history.names import VersionName
from components.history.tree import FILE, ModelTree, Node, walk
from components.records import RoundRecord


@dataclass(frozen=True)
class Lineage:
    """A version with every model behind it."""

    version: str
    aliases: tuple[str, ...]
    campaign: str
    models: tuple[Node, ...]
    """The version's own model first, then each one that some model above was trained from or measured against, down to
    the start."""

    @property
    def damaged(self) -> list[str]:
        """Paths of files that are gone, or are no longer what was published.

        Weights that were collected are not among them.
        """
        nodes = [node for node in walk(self.models) if node.condition in ("changed", "gone")]
        files = [node for node in nodes if not any(child.what == FILE for child in node.children)]
        return list(dict.fromkeys(node.path for node in files if node.path is not None))

    def plain(self) -> dict[str, Any]:
        """The same as JSON values."""
        return asdict(self) | {"damaged": self.damaged}


def read_lineage(name: VersionName) -> Lineage:
    """Follows a version back to the start.

    Raises:
        ValueError: There is no such version or alias, or the campaign's files know nothing of it.
        TrackingUnavailable: MLflow cannot be reached.
    """
    from components.tracking import Version, read_versions  # loads mlflow, which takes seconds

    versions: list[Version] = read_versions(runs_directory(), name.model)
    wanted = [each for each in versions if name.version == each.version or name.alias in each.aliases]
    if not wanted:
        known = [
            *(str(each.version) for each in versions),
            *(f"@{alias}" for each in versions for alias in each.aliases),
        ]
        raise ValueError(f"MLflow has no model version {name}: {name.model} has {', '.join(known) or 'none'}")
    version = wanted[0]
    known_state(name.model)
    campaign = read_campaign(campaign_directory(name.model))
    record = _record_of(campaign, version.tags, name)
    shas = {each.tags.get("policy_digest", ""): each.tags["git_sha"] for each in versions if "git_sha" in each.tags}
    return Lineage(
        version=f"{name.model}/{version.version}",
        aliases=version.aliases,
        campaign=campaign.name,
        models=tuple(tree.node() for tree in _ancestry(campaign, record.round, shas)),
    )


def _record_of(campaign: CampaignFiles, tags: dict[str, str], name: VersionName) -> RoundRecord:
    for known in campaign.finished:
        if (str(known.round), known.policy_digest) == (tags.get("round"), tags.get("policy_digest")):
            return known
    raise ValueError(
        f"{name} is of no round under {campaign.directory}: an earlier campaign of that name made it, and its files are gone"
    )


def _ancestry(campaign: CampaignFiles, round: int, git_shas: dict[str, str]) -> list[ModelTree]:
    """The round, and every model that was behind it as its origin or as a reference, newest first.

    The start model is the last.
    """
    found, waiting = dict[int, ModelTree](), [round]
    while waiting:
        number = waiting.pop()
        if number not in found:
            found[number] = ModelTree(campaign, number, git_shas)
            waiting += [parent for parent in found[number].parents if parent is not None]
    return [found[number] for number in sorted(found, reverse=True)]
