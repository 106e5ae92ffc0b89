"""Read a campaign's directory, whether its rounds are finished or not.

The one place that knows which stage publishes what, and its formats.

Loads no table library before a caller reads a table: it takes longer to load than everything else in a command that
only looks at a campaign.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pydantic import ValidationError

from components.artifacts import MANIFEST, artifact, file_digest, read_json, read_record, read_table
from components.campaign.config import CONFIG, with_former_knobs
from components.campaign.state import State, read_state, round_directory, start_directory
from components.config import CampaignConfig, PreferencesConfig, describe
from components.records import (
    CHECK_EXAMPLES,
    JUDGE_USAGE,
    PROMPT_OUTCOMES,
    AnsweredRound,
    Artifact,
    JudgedRound,
    Manifest,
    NewerVersion,
    PeopleSummary,
    RoundRecord,
)

if TYPE_CHECKING:
    import pandas as pd

STAGES = ("generate_responses", "collect_preferences", "validate_data", "dpo_train", "evaluate", "promote")
"""A round's stages in their order."""
GATE_MEASURES = (
    "length_controlled_win_rate_vs_champion",
    "length_controlled_win_rate_vs_start",
    "evidence",
    "audit",
)
"""What an evaluation and a round's record have in common, if no earlier version ran the round."""
PEOPLE = "people.json"
"""File of the collection stage about the people that voted."""
TAKE_FEEDBACK, FEEDBACK = "take_feedback", "feedback.json"
"""Stage of the rounds that learn from thumbs, before all others, and its file of counts."""
TRACKING = "tracking.json"
"""File in the round's directory that names the round's MLflow run."""
NOT_RECORDED = "not-recorded.json"
"""File in the campaign's directory that says why its latest recording in MLflow failed; absent if it succeeded."""


@dataclass(frozen=True, eq=False)
class RoundFiles:
    """One round: its record if it is finished, and whatever its stages have published.

    Small files are read once. Files that grow with the data (metrics, samples, lengths) are read at each access.
    """

    directory: Path
    round: int
    record: RoundRecord | None
    seeded: bool
    """Whether a preference data set is this round's data, so that it samples no responses."""

    @cached_property
    def manifests(self) -> dict[str, Manifest]:
        """Manifests of the published stages; a stage without an intact manifest has published nothing."""
        manifests = {stage: read_manifest(self.directory / stage) for stage in STAGES}
        return {stage: manifest for stage, manifest in manifests.items() if manifest is not None}

    @cached_property
    def published_ms(self) -> dict[str, int]:
        """Unix time of each published stage's end, in ms."""
        return {stage: published_ms(self.directory / stage) for stage in self.manifests}

    @property
    def started_ms(self) -> int:
        """Unix time at which the round's first published stage began, in ms."""
        return min(began_ms(self.directory / stage, manifest) for stage, manifest in self.manifests.items())

    @property
    def ended_ms(self) -> int:
        """Unix time at which the round's last published stage ended, in ms."""
        return max(self.published_ms.values())

    @property
    def pending(self) -> list[str]:
        """Stages that have not been published, in order."""
        return [
            stage
            for stage in STAGES
            if stage not in self.manifests and not (self.seeded and stage == "generate_responses")
        ]

    @cached_property
    def generated(self) -> dict[str, Any] | None:
        """Counts of the sampled responses, and how they were sampled; None if the round has not published them."""
        published = self.file_digest("generate_responses", "generate.json") is not None
        return self.read("generate_responses", "generate.json") if published else None

    @cached_property
    def collected(self) -> dict[str, Any] | None:
        """Counts of the prompts, verdicts and pairs; None before collect_preferences."""
        return self.read("collect_preferences", "collect.json")

    @cached_property
    def validated(self) -> dict[str, Any] | None:
        """Counts of the checked pairs; None before validate_data."""
        return self.read("validate_data", "validation.json")

    @cached_property
    def check_examples(self) -> dict[str, list[dict[str, str]]]:
        """Masked examples by data check; empty if none is above its limit, or an earlier version ran the round."""
        if self.file_digest("validate_data", CHECK_EXAMPLES) is None:
            return {}
        examples: dict[str, list[dict[str, str]]] = {}
        for row in read_table(self.directory / "validate_data" / CHECK_EXAMPLES).to_dict("records"):
            examples.setdefault(row["check"], []).append({str(name): text for name, text in row.items()})
        return examples

    @cached_property
    def trained(self) -> dict[str, Any] | None:
        """Digests and held-out pair metrics of the training; None before dpo_train."""
        return self.read("dpo_train", "train.json")

    @cached_property
    def evaluated(self) -> dict[str, Any] | None:
        """The comparison on held-out prompts; None before evaluate."""
        return self.read("evaluate", "evaluation.json")

    @cached_property
    def people(self) -> dict[str, Any] | None:
        """The people that voted on the round's pairs, and the judges measured by them; None if nobody was asked."""
        return self.read("collect_preferences", PEOPLE) if self.file_digest("collect_preferences", PEOPLE) else None

    @cached_property
    def feedback(self) -> dict[str, Any] | None:
        """Counts of the thumbs of users that the round looked at and took; None if it takes none."""
        stage = self.directory / TAKE_FEEDBACK
        return read_json(stage / FEEDBACK) if read_manifest(stage) is not None else None

    def judge_usage(self, stage: str) -> dict[str, Any] | None:
        """Return counts and cost of a stage's calls to chat endpoints; None if it made none."""
        called = stage in self.manifests and JUDGE_USAGE in self.manifests[stage].files
        return self.read(stage, JUDGE_USAGE) if called else None

    @cached_property
    def decision(self) -> dict[str, Any] | None:
        """The gate's decision and its reasons; None before promote."""
        return self.read("promote", "decision.json")

    @property
    def promoted(self) -> bool | None:
        """Whether the challenger became the champion; None before the decision."""
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
        """Ids of the round's MLflow run and model version; None before the round is recorded there."""
        path = self.directory / TRACKING
        return read_json(path) if path.is_file() else None

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One dict per optimizer step; empty before dpo_train."""
        path = self.directory / "dpo_train" / "metrics.jsonl"
        if "dpo_train" not in self.manifests:
            return []
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]

    @property
    def samples(self) -> "pd.DataFrame | None":
        """Responses of start, champion and challenger side by side; None before evaluate."""
        return read_table(self.directory / "evaluate" / "samples.parquet") if "evaluate" in self.manifests else None

    @property
    def lengths(self) -> "pd.DataFrame | None":
        """Tokens and finish reason of every sampled response; None before generate_responses and in a seeded round."""
        if "generate_responses" not in self.manifests:
            return None
        import pandas as pd

        return pd.read_parquet(
            self.directory / "generate_responses" / "responses.parquet", columns=["n_tokens", "finish_reason"]
        )

    @cached_property
    def length_deciles(self) -> tuple[float, float, float] | None:
        """First, fifth and ninth decile of the sampled responses' tokens; None if there are no responses."""
        lengths = self.lengths
        if lengths is None:
            return None
        import numpy as np

        first, fifth, ninth = np.percentile(lengths["n_tokens"].to_numpy(), [10, 50, 90])
        return float(first), float(fifth), float(ninth)

    def file_digest(self, stage: str, name: str) -> str | None:
        """Return the digest of a published file, as its manifest recorded it; None if it was not published."""
        manifest = self.manifests.get(stage)
        record = manifest.files.get(name) if manifest else None
        return record.sha256 if record else None

    def read(self, stage: str, name: str) -> dict[str, Any] | None:
        """Read a JSON file of a stage; None before the stage is published, or in a round that does not need it."""
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
        """Path on the MLflow server of the page that shows the recorded rounds side by side.

        None before any round is recorded.
        """
        recorded = [
            (tracking["experiment_id"], tracking["run_id"])
            for round_ in self.rounds
            if (tracking := round_.tracking) is not None
        ]
        return f"/#/{compare_page(recorded)}" if recorded else None

    def champion_before(self, round_: int) -> int:
        """Return the round whose model a round's challenger was compared with; 0 is the start model."""
        return self.state.champion_before(round_)

    def round_files(self, number: int) -> RoundFiles:
        """Return the files of a round that has begun.

        Raises:
            ValueError: The round has not begun.
        """
        for round_ in self.rounds:
            if round_.round == number:
                return round_
        rounds = ", ".join(str(round_.round) for round_ in self.rounds) or "none"
        raise ValueError(f"round {number} does not exist in {self.directory}: its rounds are {rounds}")


def read_campaign(directory: Path) -> CampaignFiles:
    """Read a campaign from its directory.

    Args:
        directory: runs/<campaign>.

    Raises:
        ValueError: The directory does not contain a campaign, or its configuration is not valid.
    """
    state = read_state(directory)
    if state is None or not (directory / "config.json").is_file():
        raise ValueError(f"{directory} does not contain a campaign: name one that `ratchet run` has started")
    try:
        config = CampaignConfig.model_validate(with_former_knobs(read_json(directory / CONFIG)))
    except ValidationError as error:
        raise ValueError(f"{directory / 'config.json'}: {describe(error)}") from None
    records = {record.round: record for record in state.rounds}
    directories = {int(name[1]) for path in directory.iterdir() if (name := re.fullmatch(r"round-(\d+)", path.name))}
    start, start_manifest = start_of_round(directory, None)
    return CampaignFiles(
        directory=directory,
        state=state,
        config=config,
        start=start,
        start_manifest=start_manifest,
        rounds=tuple(
            round_files(
                directory, number, records.get(number), seeded=not _samples(directory, config.preferences, number)
            )
            for number in sorted((directories | records.keys()) - {0})
        ),
    )


def _samples(directory: Path, preferences: PreferencesConfig, round: int) -> bool:
    """Return whether a round samples responses, also one that ran before its data came from outside."""
    return preferences.samples_in(round) or (round_directory(directory, round) / "generate_responses").is_dir()


def start_of_round(directory: Path, round: int | None) -> tuple[dict[str, Any] | None, Manifest | None]:
    """Return start.json and the manifest of what round 0 published for a round; None for the present.

    Both are None if it published nothing.
    """
    here = start_directory(directory, round)
    manifest = read_manifest(here)
    return read_json(here / "start.json") if manifest and (here / "start.json").is_file() else None, manifest


def round_files(campaign_dir: Path, number: int, record: RoundRecord | None, *, seeded: bool) -> RoundFiles:
    """Return the files of a round.

    The files of a finished round are cached until a stage is published again or the round's record changes. The report
    is written after each round and shows all rounds, so its cost must not grow with what earlier rounds published.

    Args:
        campaign_dir: runs/<campaign>.
        number: The round.
        record: Its record, if it is finished.
        seeded: Whether the round's data come from outside: from a data set, or from users.
    """
    directory = round_directory(campaign_dir, number)
    if record is None:
        return RoundFiles(directory=directory, round=number, record=None, seeded=seeded)
    published = tuple(
        _modified_ns(directory / name) for name in (*(f"{stage}/{MANIFEST}" for stage in STAGES), TRACKING)
    )
    return _finished_round(directory, number, record.model_dump_json(), seeded, published)


@lru_cache(maxsize=2048)
def _finished_round(
    directory: Path, number: int, record: str, seeded: bool, published: tuple[int | None, ...]
) -> RoundFiles:
    return RoundFiles(directory=directory, round=number, record=RoundRecord.model_validate_json(record), seeded=seeded)


def _modified_ns(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def read_manifest(directory: Path) -> Manifest | None:
    """Read a stage's manifest; None if it is missing or damaged, since the stage has then published nothing.

    Raises:
        NewerVersion: A newer version of Ratchet wrote it.
    """
    try:
        return read_record(Manifest, directory / MANIFEST)
    except NewerVersion:
        raise
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def published_ms(directory: Path) -> int:
    """Return the Unix time, in ms, at which a stage's manifest was written.

    Raises:
        FileNotFoundError: The stage is not published.
    """
    return (directory / MANIFEST).stat().st_mtime_ns // 1_000_000


def began_ms(directory: Path, manifest: Manifest) -> int:
    """Return the Unix time, in ms, at which a published stage began."""
    return published_ms(directory) - round(manifest.seconds * 1000)


def compare_page(rounds: Sequence[tuple[str, str]]) -> str:
    """Return the path, after an MLflow server's address and `/#/`, of the page that shows runs side by side.

    Args:
        rounds: Ids of experiment and run, in the order of the page's columns.
    """
    ids = [run_id for _, run_id in rounds], list(dict.fromkeys(experiment_id for experiment_id, _ in rounds))
    runs, experiments = (quote(json.dumps(names, separators=(",", ":"))) for names in ids)
    # Without the work flow, links on this page open MLflow's pages for language model applications.
    return f"compare-runs?runs={runs}&experiments={experiments}&workflowType=machine_learning"


def not_recorded(directory: Path, state: State) -> str | None:
    """Return in one line how many finished rounds MLflow lacks, and why; None if it has all."""
    missing = sum(record.mlflow_run_id is None for record in state.rounds)
    if not missing:
        return None
    rounds = f"{missing} round{' is' if missing == 1 else 's are'} not recorded in MLflow"
    if not (directory / NOT_RECORDED).exists():
        return f"{rounds} yet: the next start records what is missing"
    failure = read_json(directory / NOT_RECORDED)
    when = "the next start" if failure["may_pass"] else "once that is mended, the next start"
    return f"{rounds}: {failure['cause']}; {when} records what is missing"


def judged_rounds(directory: Path, round: int) -> tuple[JudgedRound, ...]:
    """Return what became of the prompts of the rounds before this one, oldest first.

    A round that a data set seeded is left out: it judged no prompts.
    """
    stages = {earlier: round_directory(directory, earlier) / "collect_preferences" for earlier in range(1, round)}
    manifests = {earlier: read_record(Manifest, stage / MANIFEST) for earlier, stage in stages.items()}
    return tuple(
        JudgedRound(round=earlier, outcomes=artifact(stages[earlier], manifest, PROMPT_OUTCOMES))
        for earlier, manifest in manifests.items()
        if PROMPT_OUTCOMES in manifest.files
    )


def answered_rounds(directory: Path, state: State, round: int) -> tuple[AnsweredRound, ...]:
    """Return what the rounds before this one sampled, oldest first, with the recorded hashes.

    A round whose data came from outside is left out: it sampled nothing.
    """
    stages = {earlier: round_directory(directory, earlier) / "generate_responses" for earlier in range(1, round)}
    manifests = {earlier: read_manifest(stage) for earlier, stage in stages.items()}
    return tuple(
        AnsweredRound(
            champion=state.champion_before(earlier),
            prompts=artifact(stages[earlier], manifest, "prompts.parquet"),
            responses=artifact(stages[earlier], manifest, "responses.parquet"),
        )
        for earlier, manifest in manifests.items()
        if manifest is not None
    )


def replayed_pairs(directory: Path, round: int, count: int) -> tuple[Artifact, ...]:
    """Return the training pairs of the `count` rounds before this one, oldest first, with their recorded hashes."""
    stages = [round_directory(directory, earlier) / "validate_data" for earlier in range(max(1, round - count), round)]
    manifests = [(stage, read_record(Manifest, stage / MANIFEST)) for stage in stages]
    return tuple(artifact(stage, manifest, "train.parquet") for stage, manifest in manifests)


def taken_thumbs(directory: Path, round: int) -> tuple[Artifact, ...]:
    """Return the thumbs of users that the rounds before this one took, oldest first, with their recorded hashes.

    Raises:
        ValueError: What a round took is gone or has changed, so that a later round would train on it again.
    """
    tables = [_thumbs_of(round_directory(directory, earlier)) for earlier in range(1, round)]
    return tuple(table for table in tables if table is not None)


def _thumbs_of(here: Path) -> Artifact | None:
    """Return the thumbs that a round took; None if it takes none, or has not begun."""
    stage, counts = here / TAKE_FEEDBACK, here / "collect_preferences" / "collect.json"
    manifest = read_manifest(stage)
    if manifest is None and not (counts.is_file() and "feedback" in read_json(counts)):
        return None
    table = None if manifest is None else artifact(stage, manifest, "thumbs.parquet")
    if table is None or not table.path.is_file() or file_digest(table.path) != table.digest:
        raise ValueError(
            f"{stage} is gone or has changed, and says which thumbs the round took: restore it, since later rounds "
            "would train on them again"
        )
    return table


def round_record(here: Path, round: int, manifests: dict[str, Manifest], *, git_sha: str) -> RoundRecord:
    """Build a finished round's record from what its stages published, and the commit of the code that finished it."""
    evaluation = read_json(here / "evaluate" / "evaluation.json")
    decision = read_json(here / "promote" / "decision.json")
    trained = read_json(here / "dpo_train" / "train.json")
    rewards = evaluation["mean_reward"]
    sampled = here / "generate_responses" / "generate.json"
    # A round that a data set seeds samples nothing, and earlier versions did not measure it.
    diversity = read_json(sampled).get("diversity", {}) if "generate_responses" in manifests else {}
    return RoundRecord(
        round=round,
        promoted=decision["promoted"],
        reasons=tuple(decision["reasons"]),
        num_pairs=trained["num_pairs"],
        win_rate_vs_champion=evaluation["win_rate_vs_champion"],
        win_rate_vs_start=evaluation["win_rate_vs_start"],
        kl_to_start=evaluation["kl_to_start"],
        mean_tokens=evaluation["mean_tokens"]["challenger"],
        mean_reward=None if rewards is None else rewards["challenger"],
        **{name: evaluation.get(name) for name in GATE_MEASURES},
        distinct_2=diversity.get("distinct_2"),
        equal_samples=diversity.get("equal_samples"),
        seconds={name: manifest.seconds for name, manifest in manifests.items()},
        policy_digest=trained["policy_digest"],
        reference_digest=trained["reference_digest"],
        git_sha=git_sha,
        people=_people_summary(here / "collect_preferences" / PEOPLE),
    )


def _people_summary(path: Path) -> PeopleSummary | None:
    if not path.exists():
        return None
    measured = read_json(path)
    agreements = {name: judge["agreement"] for name, judge in measured["judges"].items()}
    return PeopleSummary(
        labelled=measured["labelled"],
        annotators=sum(annotator["votes"] > 0 for annotator in measured["annotators"].values()),
        agreement=measured["agreement"],
        judges={name: agreement for name, agreement in agreements.items() if agreement is not None},
    )
