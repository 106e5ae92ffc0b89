"""Reads a campaign's directory as it stands, finished or not. Knows the files' formats; judges and formats nothing."""

import json
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from pydantic import ValidationError

from components.artifacts import MANIFEST, read_json
from components.campaign.state import State, read_state, round_directory
from components.config import CampaignConfig, describe
from components.judges.chat.ledger import USAGE
from components.records import Manifest, RoundRecord

STAGES = ("generate_responses", "collect_preferences", "validate_data", "dpo_train", "evaluate", "promote")


@dataclass(frozen=True, eq=False)
class RoundFiles:
    """One round: its record where it is finished, and whatever its stages have published.

    What is small is read once; what grows with the data (metrics, samples, lengths) is read when it is asked for.
    """

    directory: Path
    round: int
    record: RoundRecord | None
    seeded: bool
    """A preference data set is this round's data, so it samples no responses."""

    @cached_property
    def manifests(self) -> dict[str, Manifest]:
        """Manifests of the published stages; a stage without a whole one has published nothing."""
        found = {stage: read_manifest(self.directory / stage) for stage in STAGES}
        return {stage: manifest for stage, manifest in found.items() if manifest is not None}

    @property
    def pending(self) -> list[str]:
        """Stages that have not been published, in order."""
        return [stage for stage in STAGES if stage not in self.manifests and not (self.seeded and stage == "generate_responses")]

    @cached_property
    def collected(self) -> dict[str, Any] | None:
        """Counts of the prompts, verdicts and pairs; None before collect_preferences."""
        return self._json("collect_preferences", "collect.json")

    @cached_property
    def validated(self) -> dict[str, Any] | None:
        """Counts of the checked pairs; None before validate_data."""
        return self._json("validate_data", "validation.json")

    @cached_property
    def trained(self) -> dict[str, Any] | None:
        """Digests and held-out pair metrics of the training; None before dpo_train."""
        return self._json("dpo_train", "train.json")

    @cached_property
    def evaluated(self) -> dict[str, Any] | None:
        """The comparison on held-out prompts; None before evaluate."""
        return self._json("evaluate", "evaluation.json")

    def judge_usage(self, stage: str) -> dict[str, Any] | None:
        """What a stage's calls to chat endpoints came to; None where none was asked."""
        asked = stage in self.manifests and USAGE in self.manifests[stage].files
        return self._json(stage, USAGE) if asked else None

    @cached_property
    def decision(self) -> dict[str, Any] | None:
        """What the gate said, with its reasons; None before promote."""
        return self._json("promote", "decision.json")

    @property
    def promoted(self) -> bool | None:
        """Whether the challenger became the champion; None before that was decided."""
        if self.record is not None:
            return self.record.promoted
        return None if self.decision is None else self.decision["promoted"]

    @property
    def reasons(self) -> tuple[str, ...]:
        """The gate's reasons; empty before the decision."""
        if self.record is not None:
            return self.record.reasons
        return () if self.decision is None else tuple(self.decision["reasons"])

    @cached_property
    def tracking(self) -> dict[str, Any] | None:
        """Where MLflow has the round; None before it was recorded there."""
        path = self.directory / "tracking.json"
        return read_json(path) if path.is_file() else None

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One dict an optimizer step; empty before dpo_train."""
        path = self.directory / "dpo_train" / "metrics.jsonl"
        if "dpo_train" not in self.manifests:
            return []
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]

    @property
    def samples(self) -> pd.DataFrame | None:
        """Responses of start, champion and challenger side by side; None before evaluate."""
        path = self.directory / "evaluate" / "samples.parquet"
        return pd.read_parquet(path) if "evaluate" in self.manifests else None

    @property
    def lengths(self) -> pd.DataFrame | None:
        """Tokens and finish reason of every sampled response; None before generate_responses and in a seeded round."""
        path = self.directory / "generate_responses" / "responses.parquet"
        return pd.read_parquet(path, columns=["n_tokens", "finish_reason"]) if "generate_responses" in self.manifests else None

    @cached_property
    def length_deciles(self) -> tuple[float, float, float] | None:
        """First, fifth and ninth decile of the sampled responses' tokens; None where there are none."""
        lengths = self.lengths
        if lengths is None:
            return None
        first, fifth, ninth = np.percentile(lengths["n_tokens"].to_numpy(), [10, 50, 90])
        return float(first), float(fifth), float(ninth)

    def file_digest(self, stage: str, name: str) -> str | None:
        """Digest of a published file, as its manifest recorded it; None if it was not published."""
        manifest = self.manifests.get(stage)
        record = manifest.files.get(name) if manifest else None
        return record.sha256 if record else None

    def _json(self, stage: str, name: str) -> dict[str, Any] | None:
        return read_json(self.directory / stage / name) if stage in self.manifests else None


@dataclass(frozen=True)
class CampaignFiles:
    """A campaign: its state, its configuration, round 0 and all rounds that have begun, oldest first."""

    directory: Path
    state: State
    config: CampaignConfig
    start: dict[str, Any] | None
    """Round 0: the pinned model and judges and the counts of prompts; None before it is published."""
    start_manifest: Manifest | None
    rounds: tuple[RoundFiles, ...]

    @property
    def name(self) -> str:
        """The campaign's name."""
        return self.state.campaign

    @property
    def finished(self) -> tuple[RoundRecord, ...]:
        """Records of the finished rounds, oldest first."""
        return self.state.rounds

    @property
    def champion_record(self) -> RoundRecord | None:
        """Record of the champion's round; None while the start model is the champion."""
        return next((record for record in self.finished if record.round == self.state.champion.round), None)

    @property
    def compare_page(self) -> str | None:
        """What follows the MLflow server's address for the page that shows the recorded rounds side by side; None before there are any."""
        recorded = [round_.tracking for round_ in self.rounds if round_.tracking is not None]
        if not recorded:
            return None
        runs = json.dumps([entry["run_id"] for entry in recorded], separators=(",", ":"))
        experiments = json.dumps([recorded[-1]["experiment_id"]])
        return f"/#/compare-runs?runs={quote(runs)}&experiments={quote(experiments)}&workflowType=machine_learning"

    def champion_before(self, round_: int) -> int:
        """The round whose model a round's challenger was compared with; 0 is the start model."""
        return self.state.champion_before(round_)

    def round_files(self, number: int) -> RoundFiles:
        """A round that has begun.

        Raises:
            ValueError: It has not.
        """
        for round_ in self.rounds:
            if round_.round == number:
                return round_
        raise ValueError(f"{self.directory} has no round {number}; its rounds: {', '.join(str(round_.round) for round_ in self.rounds)}")


def read_campaign(directory: Path) -> CampaignFiles:
    """Reads what is on disk of a campaign.

    Args:
        directory: runs/<campaign>.

    Raises:
        ValueError: There is no campaign in the directory.
    """
    state = read_state(directory)
    if state is None or not (directory / "config.json").is_file():
        raise ValueError(f"{directory} holds no campaign: name one that `ratchet run` has started")
    try:
        config = CampaignConfig.model_validate(read_json(directory / "config.json"))
    except ValidationError as error:
        raise ValueError(f"{directory / 'config.json'}: {describe(error)}") from None
    records = {record.round: record for record in state.rounds}
    begun = {int(name[1]) for path in directory.iterdir() if (name := re.fullmatch(r"round-(\d+)", path.name))}
    start = round_directory(directory, 0) / "start"
    start_manifest = read_manifest(start)
    return CampaignFiles(
        directory=directory,
        state=state,
        config=config,
        start=read_json(start / "start.json") if start_manifest and (start / "start.json").is_file() else None,
        start_manifest=start_manifest,
        rounds=tuple(
            _round_files(
                round_directory(directory, number), number, records.get(number), number == 1 and bool(config.preferences.seed_pairs)
            )
            for number in sorted((begun | records.keys()) - {0})
        ),
    )


def _round_files(directory: Path, number: int, record: RoundRecord | None, seeded: bool) -> RoundFiles:
    """A round's files; a finished round's are those of the reading before, unless a stage was published again or its record changed."""
    if record is None:
        return RoundFiles(directory=directory, round=number, record=None, seeded=seeded)
    published = tuple(_modified_ns(directory / name) for name in (*(f"{stage}/{MANIFEST}" for stage in STAGES), "tracking.json"))
    return _finished_round(directory, number, record.model_dump_json(), seeded, published)


@lru_cache(maxsize=2048)
def _finished_round(directory: Path, number: int, record: str, seeded: bool, published: tuple[int | None, ...]) -> RoundFiles:
    """Kept, because the report is written after each round and tells all of them: what it costs must not grow with the rounds."""
    return RoundFiles(directory=directory, round=number, record=RoundRecord.model_validate_json(record), seeded=seeded)


def _modified_ns(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def read_manifest(directory: Path) -> Manifest | None:
    """Reads a stage's manifest; None where there is none or it is damaged, so that the stage has published nothing."""
    try:
        return Manifest.model_validate_json((directory / MANIFEST).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
