"""What a round's files say about it: times, settings, lineage, verdict. Writes nothing and knows no MLflow."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.artifacts import MANIFEST, read_json
from components.campaign import State, read_state, with_round
from components.judges import described
from components.records import JudgeRef, Manifest, RoundRecord
from components.report.wording import scoring_path

STAGES = ("generate_responses", "collect_preferences", "validate_data", "dpo_train", "evaluate", "promote")


@dataclass(frozen=True)
class RoundFacts:
    """A finished round as its files tell it."""

    campaign_dir: Path
    record: RoundRecord
    state: State
    """The campaign as it stands now, this round included."""
    config: dict[str, Any]
    git_sha: str
    manifests: dict[str, Manifest]
    """By stage; a stage that the round did not need is absent."""
    published_ms: dict[str, int]
    """Unix time of each stage's end."""

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
        """Where the round's stages are."""
        return round_directory(self.campaign_dir, self.record.round)

    @property
    def started_ms(self) -> int:
        """Unix time at which the round's first stage began."""
        return min(_began_ms(self.manifests[stage], published_ms) for stage, published_ms in self.published_ms.items())

    @property
    def ended_ms(self) -> int:
        """Unix time at which the round's last stage ended."""
        return max(self.published_ms.values())

    @property
    def campaign_started_ms(self) -> int:
        """Unix time at which the campaign's round 0 began."""
        manifest, published_ms = read_manifest(round_directory(self.campaign_dir, 0) / "start")
        return _began_ms(manifest, published_ms)

    @property
    def first(self) -> int:
        """The campaign's first round."""
        return min(self.known)

    @property
    def champion(self) -> int:
        """Round of the champion after this round's gate, whatever was rolled back later; 0 is the start."""
        return self.record.round if self.record.promoted else self.state.champion_before(self.record.round)

    def stage(self, name: str, file: str) -> dict[str, Any] | None:
        """A JSON file of one stage, or None where the round did not need the stage."""
        return read_json(self.directory / name / file) if name in self.manifests else None


def round_directory(campaign_dir: Path, number: int) -> Path:
    """Where a round's stages are."""
    return campaign_dir / f"round-{number:03d}"


def read_facts(campaign_dir: Path, record: RoundRecord, *, config: Mapping[str, Any], git_sha: str) -> RoundFacts:
    """Reads what a round's files say about it.

    Args:
        campaign_dir: runs/<campaign>.
        record: The round, which need not stand in campaign.json yet.
        config: The campaign's resolved configuration.
        git_sha: Commit of the code that ran the round.

    Raises:
        OSError: A file of the campaign or of the round is missing.
    """
    state = read_state(campaign_dir)
    if state is None:
        raise FileNotFoundError(f"{campaign_dir} holds no campaign.json")
    directory = round_directory(campaign_dir, record.round)
    stages = {stage: read_manifest(directory / stage) for stage in STAGES if (directory / stage / MANIFEST).exists()}
    if not stages:
        raise FileNotFoundError(f"{directory} holds no finished stage")
    return RoundFacts(
        campaign_dir=campaign_dir,
        record=record,
        state=with_round(state, record),
        config=dict(config),
        git_sha=git_sha,
        manifests={stage: manifest for stage, (manifest, _) in stages.items()},
        published_ms={stage: published_ms for stage, (_, published_ms) in stages.items()},
    )


def read_manifest(directory: Path) -> tuple[Manifest, int]:
    """A published stage's manifest, and the Unix time (ms) at which it was written."""
    path = directory / MANIFEST
    return Manifest.model_validate_json(path.read_text(encoding="utf-8")), path.stat().st_mtime_ns // 1_000_000


def _began_ms(manifest: Manifest, published_ms: int) -> int:
    return published_ms - round(manifest.seconds * 1000)


def params(facts: RoundFacts) -> dict[str, str]:
    """The resolved configuration as flat text: `training.beta` -> `0.1`."""
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
    """What the round's model was made from and what became of it, as tags for the run and for the model version."""
    record = facts.record
    return {
        "campaign": facts.campaign,
        "round": str(record.round),
        "policy_digest": record.policy_digest,
        "reference_digest": record.reference_digest,
        "data_digest": facts.manifests["validate_data"].files["train.parquet"].sha256,
        "judge": _judge(facts),
        "git_sha": facts.git_sha,
        "promoted": json.dumps(record.promoted),
        "champion": str(facts.champion),
    }


def training_tags(facts: RoundFacts) -> dict[str, str]:
    """How the round was trained, as tags for the run; rounds of earlier versions did not write it."""
    path = scoring_path(facts.stage("dpo_train", "train.json") or {})
    return {} if path is None else {"scoring": path}


def _judge(facts: RoundFacts) -> str:
    start = read_json(round_directory(facts.campaign_dir, 0) / "start" / "start.json")
    judge = JudgeRef.model_validate(start["judge"])
    return f"{described(judge.config)}@{judge.digest[:12]}"


def description(facts: RoundFacts) -> str:
    """One paragraph for people: what the gate decided, why, and on which evidence."""
    record = facts.record
    against = {"champion": record.win_rate_vs_champion, "start": record.win_rate_vs_start}
    evidence = "; ".join(
        f"wins {rate.value:.3f} [{rate.low:.3f}, {rate.high:.3f}] of {rate.n} held-out comparisons with the {name}"
        for name, rate in against.items()
    )
    verdict = "promoted to champion" if record.promoted else "refused"
    reasons = f" ({'; '.join(record.reasons)})" if record.reasons else ""
    return f"Round {record.round} of campaign {facts.campaign}: {verdict}{reasons}. The challenger {evidence}."
