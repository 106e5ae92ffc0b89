"""Read the facts of a finished round that MLflow shows: parameters, lineage, verdict.

Writes nothing and knows no MLflow.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.artifacts import read_json
from components.campaign.files import RoundFiles, began_ms, read_manifest, round_files
from components.campaign.state import State, read_state, round_directory, with_round
from components.config import PreferencesConfig
from components.judges.registry import describe_judge
from components.records import JudgeRef, Manifest, RoundRecord
from components.report.round import escape_markdown
from components.report.wording import sampling_path, scoring_path


@dataclass(frozen=True)
class RoundFacts:
    """A finished round: its files and its campaign."""

    campaign_dir: Path
    record: RoundRecord
    files: RoundFiles
    state: State
    """The campaign's state, with this round included."""
    config: dict[str, Any]
    """The resolved configuration that the round ran with."""

    @property
    def campaign(self) -> str:
        """The campaign's name."""
        return self.campaign_dir.name

    @property
    def known(self) -> dict[int, RoundRecord]:
        """All finished rounds of the campaign by number, this one included."""
        return {record.round: record for record in self.state.rounds}

    @property
    def directory(self) -> Path:
        """Directory of the round's stages."""
        return self.files.directory

    @property
    def manifests(self) -> dict[str, Manifest]:
        """Manifests by stage; a stage that the round did not need is absent."""
        return self.files.manifests

    @property
    def start_directory(self) -> Path:
        """Directory of round 0's stage."""
        return round_directory(self.campaign_dir, 0) / "start"

    @property
    def start_manifest(self) -> Manifest:
        """Manifest of round 0.

        Raises:
            FileNotFoundError: It is missing or damaged.
        """
        manifest = read_manifest(self.start_directory)
        if manifest is None:
            raise FileNotFoundError(
                f"the manifest of {self.start_directory} is missing or damaged: restore the directory"
            )
        return manifest

    @property
    def campaign_started_ms(self) -> int:
        """Unix time at which the campaign's round 0 began, in ms."""
        return began_ms(self.start_directory, self.start_manifest)

    @property
    def first(self) -> int:
        """The campaign's first round."""
        return min(self.known)

    @property
    def champion(self) -> int:
        """Round of the champion after this round's gate, whatever was rolled back later; 0 is the start."""
        return self.record.round if self.record.promoted else self.state.champion_before(self.record.round)


def read_facts(campaign_dir: Path, record: RoundRecord, *, config: Mapping[str, Any]) -> RoundFacts:
    """Read the facts of a finished round.

    Args:
        campaign_dir: runs/<campaign>.
        record: The round's record, which need not be in campaign.json yet.
        config: The resolved configuration that the round ran with.

    Raises:
        OSError: A file of the campaign or of the round is missing.
    """
    state = read_state(campaign_dir)
    if state is None:
        raise FileNotFoundError(f"{campaign_dir / 'campaign.json'} does not exist: restore it")
    seeded = not PreferencesConfig.model_validate(config["preferences"]).samples_in(record.round)
    files = round_files(campaign_dir, record.round, record, seeded=seeded)
    if not files.manifests:
        raise FileNotFoundError(f"{files.directory} contains no finished stage: restore the directory")
    return RoundFacts(campaign_dir, record, files, with_round(state, record), dict(config))


def params(facts: RoundFacts) -> dict[str, str]:
    """Return the resolved configuration as flat text: `training.beta` -> `0.1`."""
    return dict(_flatten(facts.config, ""))


def _flatten(value: Mapping[str, Any], prefix: str) -> list[tuple[str, str]]:
    lines = []
    for key, item in value.items():
        if isinstance(item, Mapping):
            lines += _flatten(item, f"{prefix}{key}.")
        else:
            lines.append((f"{prefix}{key}", item if isinstance(item, str) else json.dumps(item)))
    return lines


def lineage(facts: RoundFacts) -> dict[str, str]:
    """Return the model's inputs and the gate's decision, as tags for the run and for the model version."""
    record = facts.record
    # Absent in campaigns and rounds of earlier versions.
    known = {"campaign_id": facts.state.id, "git_sha": record.git_sha}
    return {name: value for name, value in known.items() if value is not None} | {
        "campaign": facts.campaign,
        "round": str(record.round),
        "policy_digest": record.policy_digest,
        "reference_digest": record.reference_digest,
        "data_digest": facts.manifests["validate_data"].files["train.parquet"].sha256,
        "judge": _judge(facts),
        "promoted": json.dumps(record.promoted),
        "champion": str(facts.champion),
    }


def training_tags(facts: RoundFacts) -> dict[str, str]:
    """Return how the round was sampled and trained, as tags for the run; empty for rounds of earlier versions."""
    paths = {
        "sampling": sampling_path(facts.files.generated or {}),
        "scoring": scoring_path(facts.files.trained or {}),
    }
    return {name: path for name, path in paths.items() if path is not None}


def _judge(facts: RoundFacts) -> str:
    start = read_json(facts.start_directory / "start.json")
    judge = JudgeRef.model_validate(start["judge"])
    return f"{describe_judge(judge.config)}@{judge.digest[:12]}"


def description(facts: RoundFacts) -> str:
    """Return one paragraph with the gate's decision, its reasons and the evidence, in Markdown."""
    record = facts.record
    against = {"champion": record.win_rate_vs_champion, "start": record.win_rate_vs_start}
    evidence = "; ".join(
        f"wins {rate.value:.3f} [{rate.low:.3f}, {rate.high:.3f}] of {rate.n} held-out comparisons with the {name}"
        for name, rate in against.items()
    )
    verdict = "promoted to champion" if record.promoted else "refused"
    reasons = f" ({escape_markdown('; '.join(record.reasons))})" if record.reasons else ""
    return f"Round {record.round} of campaign {facts.campaign}: {verdict}{reasons}. The challenger {evidence}."
