"""Reads from a campaign's directory everything that MLflow is told about a round. Writes nothing and asks no server."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from mlflow.entities import Dataset, DatasetInput, InputTag

from components.artifacts import MANIFEST, read_json, read_table
from components.records import JudgeRef, Manifest, RoundRecord

STAGES = ("generate_responses", "collect_preferences", "validate_data", "dpo_train", "evaluate", "promote")
SAMPLES_TABLE = "samples.json"
_DIGEST_LIMIT = 36  # MLflow refuses longer dataset digests
_ARTIFACT_SUFFIXES = {".json", ".jsonl", ".png"}


@dataclass(frozen=True)
class RoundFacts:
    """A finished round as its files tell it."""

    campaign_dir: Path
    record: RoundRecord
    known: dict[int, RoundRecord]
    """All finished rounds of the campaign by number, this one included."""
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
    def directory(self) -> Path:
        """Where the round's stages are."""
        return round_directory(self.campaign_dir, self.record.round)

    @property
    def started_ms(self) -> int:
        """Unix time at which the round's first stage began."""
        return min(end - round(self.manifests[stage].seconds * 1000) for stage, end in self.published_ms.items())

    @property
    def ended_ms(self) -> int:
        """Unix time at which the round's last stage ended."""
        return max(self.published_ms.values())

    @property
    def champion(self) -> int:
        """Round of the best promoted model after this round; 0 is the start."""
        return max((number for number, record in self.known.items() if record.promoted and number <= self.record.round), default=0)

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
        OSError: A file of the round is missing.
    """
    known = {}
    if (campaign_dir / "campaign.json").exists():
        known = {entry["round"]: RoundRecord.model_validate(entry) for entry in read_json(campaign_dir / "campaign.json")["rounds"]}
    paths = {stage: round_directory(campaign_dir, record.round) / stage / MANIFEST for stage in STAGES}
    paths = {stage: path for stage, path in paths.items() if path.exists()}
    if not paths:
        raise FileNotFoundError(f"{round_directory(campaign_dir, record.round)} holds no finished stage")
    return RoundFacts(
        campaign_dir=campaign_dir,
        record=record,
        known=known | {record.round: record},
        config=dict(config),
        git_sha=git_sha,
        manifests={stage: Manifest.model_validate_json(path.read_text()) for stage, path in paths.items()},
        published_ms={stage: path.stat().st_mtime_ns // 1_000_000 for stage, path in paths.items()},
    )


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


def _judge(facts: RoundFacts) -> str:
    start = read_json(round_directory(facts.campaign_dir, 0) / "start" / "start.json")
    judge = JudgeRef.model_validate(start["judge"])
    return f"{judge.config.kind}:{judge.config.rule if judge.config.kind == 'rule' else judge.config.model}@{judge.digest[:12]}"


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


def datasets(facts: RoundFacts) -> list[DatasetInput]:
    """The tables that the round trained and measured on, under their content digests; a table with no rows was not used."""
    data, start = facts.directory / "validate_data", round_directory(facts.campaign_dir, 0) / "start"
    start_manifest = Manifest.model_validate_json((start / MANIFEST).read_text())
    tables = [
        ("train pairs", "training", data / "train.parquet", facts.manifests["validate_data"]),
        ("eval pairs", "evaluation", data / "eval.parquet", facts.manifests["validate_data"]),
        ("held-out prompts", "held-out", start / "held_out_prompts.parquet", start_manifest),
    ]
    return [_dataset(name, context, path, manifest) for name, context, path, manifest in tables if manifest.files[path.name].rows]


def _dataset(name: str, context: str, path: Path, manifest: Manifest) -> DatasetInput:
    kinds = {"string": "string", "large_string": "string", "int64": "long", "double": "double", "bool": "boolean"}
    fields = [(field.name, kinds.get(str(field.type))) for field in pq.read_schema(path)]
    columns = [{"name": column, "type": kind, "required": False} for column, kind in fields if kind is not None]
    dataset = Dataset(
        name=name,
        digest=manifest.files[path.name].sha256[:_DIGEST_LIMIT],
        source_type="local",
        source=json.dumps({"uri": path.resolve().as_uri()}),
        schema=json.dumps({"mlflow_colspec": columns}),
        profile=json.dumps({"num_rows": manifest.files[path.name].rows}),
    )
    return DatasetInput(dataset, tags=[InputTag("mlflow.data.context", context)])


def artifacts(facts: RoundFacts) -> dict[str, bytes]:
    """Small files of the round by their place in it, and the samples as the table that MLflow's pages show."""
    files = [
        path
        for stage in facts.manifests
        for path in sorted((facts.directory / stage).rglob("*"))
        if path.suffix in _ARTIFACT_SUFFIXES and not {"model", "adapter"} & set(path.relative_to(facts.directory).parts)
    ]
    content = {str(path.relative_to(facts.directory)): path.read_bytes() for path in files}
    samples: pd.DataFrame = read_table(facts.directory / "evaluate" / "samples.parquet")
    return content | {SAMPLES_TABLE: samples.to_json(orient="split", index=False).encode()}


def model_directory(facts: RoundFacts) -> Path | None:
    """The challenger's weights as this round trained them, or None when they are no longer there."""
    candidates = [facts.directory / "dpo_train" / name for name in ("adapter", "model")]
    return next((path for path in candidates if path.is_dir()), None)
