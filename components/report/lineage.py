"""List the digests behind each round as a chain: start model, prompts, responses, pairs, reference, policy."""

from dataclasses import dataclass
from typing import Any

from components.campaign.files import CampaignFiles, RoundFiles
from components.config import JudgeConfig
from components.judges.registry import describe_judge
from components.report.wording import model_name


@dataclass(frozen=True)
class Link:
    """One element of a chain: its kind, its digest, and the name of its owner if that is known."""

    what: str
    digest: str
    name: str | None = None


@dataclass(frozen=True)
class Chain:
    """The links of one round, in the order of their creation."""

    title: str
    links: tuple[Link, ...]


def lineage(campaign: CampaignFiles) -> list[Chain]:
    """Return the chain of round 0, then one chain per round; unpublished files are left out."""
    names = {record.policy_digest: f"{model_name(record.round)}'s policy" for record in campaign.finished}
    chains = []
    if campaign.start is not None and campaign.start_manifest is not None:
        start, files = campaign.start, campaign.start_manifest.files
        names[start["model"]["digest"]] = "the start model"
        links = (
            Link("start model", start["model"]["digest"]),
            Link("training prompts", files["train_prompts.parquet"].sha256),
            Link("held-out prompts", files["held_out_prompts.parquet"].sha256),
            Link("judge", start["judge"]["digest"], judge_name(start["judge"]["config"])),
            Link(
                "evaluation judge", start["evaluation_judge"]["digest"], judge_name(start["evaluation_judge"]["config"])
            ),
        )
        chains.append(Chain("Beginnings", links))
    return chains + [Chain(f"Round {round_.round}", tuple(_links(round_, names))) for round_ in campaign.rounds]


def judge_name(config: dict[str, Any]) -> str:
    """Name a judge by its kind and the rule or model behind it."""
    kind, _, name = describe_judge(JudgeConfig.model_validate(config)).partition(":")
    return f"{kind.replace('_', ' ')} {name}".strip()


def _links(round_: RoundFiles, names: dict[str, str]) -> list[Link]:
    files = {
        "prompts": ("generate_responses", "prompts.parquet"),
        "responses": ("generate_responses", "responses.parquet"),
        "pairs": ("collect_preferences", "preferences.parquet"),
        "training pairs": ("validate_data", "train.parquet"),
    }
    digests = {what: round_.file_digest(*place) for what, place in files.items()}
    links = [Link(what, digest) for what, digest in digests.items() if digest is not None]
    if round_.trained is None:
        return links
    start, reference = round_.trained["start_digest"], round_.trained["reference_digest"]
    return [
        Link("trained from", start, names.get(start)),
        *links,
        Link("reference", reference, names.get(reference)),
        Link("policy", round_.trained["policy_digest"]),
    ]
