"""The next round of a campaign, tried on a few prompts in a temporary place. Orders the stages; computes nothing.

Nothing is written into the campaign's directory, no lock is held, and no chat model is asked.
"""

import contextlib
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from components.artifacts import file_digest, publishing, read_table, verified, write_json, write_table
from components.campaign.files import read_manifest
from components.campaign.state import campaign_directory, read_state, round_directory
from components.campaign.stopping import refuse_if_converged
from components.config import CampaignConfig
from components.data.messages import parse_messages
from components.dry_run.estimates import Counts
from components.dry_run.judging import Judged, judge_collection, judge_evaluation
from components.dry_run.pairs import trial_pairs
from components.dry_run.plan import RoundPlan, Sizes, Trial, plan_round, trial_sizes
from components.dry_run.prompt import ShownPrompt, show_prompt
from components.feedback.selection import Selection
from components.feedback.waiting import ready_thumbs
from components.judges.protocol import JUDGING, Group, JudgeContext
from components.models.tokens import load_chat
from components.preferences.counts import COUNTS, pair_counts
from components.preferences.tables import read_groups, write_pairs
from components.records import Artifact, Converged, DataRejected, Manifest, NothingToLearn, StageFailed
from components.runtime import progress
from components.runtime.launch import STAGES, Placement, load_stages, run_stage
from components.runtime.stage_log import only_errors
from components.start.pins import check_start
from components.start.preflight import check_revisions
from flows.requests import Round, start_request

DRY = "dry-run"
KEPT_ROWS = re.compile(r"; the rejected rows are in \S+$")
TRIAL_STEPS = 4
"""Optimizer steps; the first is not measured."""
SMALLEST_RATE = 1e-4
"""Learning rate of these steps, if the campaign's is lower: few steps at a low rate change no bfloat16 weight."""


@dataclass(frozen=True)
class _Trial(Round):
    """A round whose stages are written elsewhere."""

    scratch: Path

    @property
    def directory(self) -> Path:
        return round_directory(self.scratch, self.number)

    @property
    def judging(self) -> JudgeContext:
        """What the judges of the round read, with a place of the trial for what they keep."""
        return JudgeContext(self.directory / JUDGING, policy=self._champion, start=self._model(0), limits=self._limits)

    def show_first_prompt(self) -> ShownPrompt:
        """Return the first training prompt as the policy reads it."""
        request = self.generate()
        messages = read_table(request.prompts)["messages"].iloc[0]
        return show_prompt(load_chat(request.policy, request.limits), parse_messages(messages))


@dataclass(frozen=True)
class DryRun:
    """What a start of the campaign would do."""

    campaign: str
    round: int
    champion_round: int
    start_seconds: float | None
    """Seconds of round 0; None if it is published already."""
    plan: RoundPlan
    demonstrations: str
    """Demonstrations that the start would train on first, and the dry run does not; empty without."""
    thumbs: Selection | None
    """Thumbs that the round would take; None if it takes none."""
    shortage: str | None
    """Why the round takes no thumbs, although it could; None if it takes them."""


def dry_run(config: CampaignConfig) -> DryRun:
    """Try the campaign's next round, from its champion.

    Raises:
        ValueError: The user's input is wrong, as a start would say.
        NothingToLearn: The round trains on thumbs alone, and there are too few.
        DataRejected: The sampled responses give no pair to train on.
        StageFailed: A stage failed on the few prompts, as it would in the round.
    """
    directory = campaign_directory(config.campaign)
    checked = check_start(directory, config, accept_changes=False)
    config, inputs = checked.config, checked.inputs
    state = read_state(directory)
    thumbs = _thumbs(directory, config, 1 if state is None else state.last_round + 1)
    load_stages()
    with tempfile.TemporaryDirectory(prefix="ratchet-dry-run-") as folder:
        scratch, counts = Path(folder), Counts()
        with progress.reporting_to(counts):
            if state is None:
                number, champion, home = 1, 0, scratch
                request = start_request(
                    config, inputs.prompts_digest, checked.pins, demonstrations=inputs.demonstrations
                )
                start = run_stage("start", request, round_directory(scratch, 0))
            else:
                number, champion, home = state.last_round + 1, state.champion.round, directory
                start = _published_start(directory)
            trial = _Trial(config, home, number, champion, start, inputs.seed_pairs_digest, scratch)
            try:
                plan = _tried(trial, counts)
            except Converged as converged:
                raise DataRejected(f"the round would not be trained: {converged}") from None
            except DataRejected as error:
                # The rows that it names are gone with the temporary folder.
                raise DataRejected(KEPT_ROWS.sub("", str(error))) from None
    untrained = config.sft.demonstrations if state is None else ""
    seconds = start.seconds if state is None else None
    shortage = None if thumbs is None else thumbs.shortage(config.preferences.feedback)
    return DryRun(config.campaign, number, champion, seconds, plan, untrained, thumbs, shortage)


def _thumbs(directory: Path, config: CampaignConfig, number: int) -> Selection | None:
    """Return the thumbs that the round would take; None if it takes none.

    Raises:
        NothingToLearn: The round trains on nothing else, and there are too few.
    """
    feedback = config.preferences.feedback
    if feedback.use == "off" or (number == 1 and config.preferences.seed_pairs):
        return None
    thumbs = ready_thumbs(directory, config, number, now=datetime.now(UTC))
    shortage = thumbs.shortage(feedback)
    if shortage is not None and feedback.use == "only":
        raise NothingToLearn(f"round {number} of {config.campaign} would not begin: {shortage}")
    return thumbs


def _published_start(directory: Path) -> Manifest:
    here = round_directory(directory, 0) / "start"
    start = read_manifest(here)
    if start is None or verified(here, start.key) is None:
        raise ValueError(f"{here} is damaged: start the campaign, which makes it anew")
    return start


def _tried(trial: _Trial, counts: Counts) -> RoundPlan:
    """Run the stages on little, and return what the round will take."""
    config, pins = trial.config, trial.pins
    check_revisions(config.preferences, pins.get("unrenderable"))
    sizes = trial_sizes(config, pins, seeded=not trial.samples, from_start=trial.champion_round == 0)
    generated = _generated(trial, sizes)
    collected, judged, evaluated = _judged(trial, _groups(trial.directory), sizes)
    relaxed = {"max_quarantine_share": 1.0, "min_pairs": 1, "eval_share": 0.0}
    validate = trial.validate(collected).model_copy(
        update={"collected": None, "replayed": (), "validation": config.validation.model_copy(update=relaxed)}
    )
    validated = run_stage("validate_data", validate, trial.directory)
    trained, step_pairs = _trained(trial, validated)
    return plan_round(
        Trial(
            config,
            sizes,
            "samples" if trial.samples else "thumbs" if trial.takes_feedback else "data set",
            generated,
            validated,
            trained,
            trial.directory,
            counts,
            judged,
            evaluated,
            trial.validate(collected).replayed,
            step_pairs,
        ),
        trial.show_first_prompt(),
    )


def _generated(trial: _Trial, sizes: Sizes) -> Manifest:
    """Sample for a few prompts, after one prompt by which the libraries and the model's file are warm."""

    def sample(prompts: int) -> Manifest:
        request = trial.generate().model_copy(update={"per_round": prompts})
        processes = trial.config.generation.num_processes
        return run_stage("generate_responses", request, trial.directory, where=Placement(num_processes=processes))

    # Only this one prompt may be too long; whatever else fails here fails again below.
    with contextlib.suppress(StageFailed):
        sample(1)
        shutil.rmtree(trial.directory / "generate_responses")
    return sample(sizes.tried_prompts)


def _groups(directory: Path) -> list[Group]:
    here = directory / "generate_responses"
    return read_groups(pd.read_parquet(here / "prompts.parquet"), pd.read_parquet(here / "responses.parquet"))


def _judged(trial: _Trial, groups: Sequence[Group], sizes: Sizes) -> tuple[Manifest, Judged, Judged]:
    """Publish pairs of the trial, and return what the judges of both stages would do."""
    config, here = trial.config, trial.directory
    progress.began(here.name, "judging")
    compared = [replace(group, responses=group.responses[:2]) for group in groups if len(group.responses) > 1]
    evaluated = judge_evaluation(
        config,
        compared,
        trial.judging,
        held_out=sizes.judged_held_out,
        opponents=sizes.models - 1,
    )
    if not trial.samples:
        taken = run_stage("take_feedback", trial.take_feedback(), here) if trial.takes_feedback else None
        seeded = run_stage("collect_preferences", trial.collect(None, taken), here)
        return seeded, Judged(seeded.seconds, (), ()), evaluated
    if config.preferences.takes_demonstrations:
        taken = run_stage("take_feedback", trial.take_feedback(), here) if trial.takes_feedback else None
        paired = run_stage("collect_preferences", trial.collect(_sampled(here), taken), here)
        refuse_if_converged(here, min_pairs=1)
        return paired, Judged(paired.seconds, (), ()), evaluated
    judged = judge_collection(config, groups, trial.judging, scale=sizes.round_prompts / sizes.tried_prompts)
    return _published_pairs(trial, groups, judged), judged, evaluated


def _sampled(here: Path) -> Manifest:
    sampled = read_manifest(here / "generate_responses")
    assert sampled is not None, here
    return sampled


def _published_pairs(trial: _Trial, groups: Sequence[Group], judged: Judged) -> Manifest:
    here, version = trial.directory / "collect_preferences", STAGES["collect_preferences"].version
    with publishing(here, stage=here.name, version=version, key=DRY) as work:
        rows = trial_pairs(groups, judged.verdicts, trial.config.preferences, seed=trial.config.seed)
        write_pairs(work.path, rows, groups)
        write_json(work.path / COUNTS, pair_counts(rows))
    published = read_manifest(here)
    assert published is not None
    return published


def _trained(trial: _Trial, validated: Manifest) -> tuple[Manifest, int]:
    """Train a few steps, each on as many pairs as a step of the round if the trial has so many."""
    request, training = trial.train(validated), trial.config.training
    table, cut = read_table(request.train).head(training.pairs_per_step), trial.scratch / "train.parquet"
    if table.empty:
        raise DataRejected(
            "validation left no pair to try the training on: look at the prompts, the responses and policy."
            "max_prompt_tokens"
        )
    write_table(cut, table)
    few = {"epochs": TRIAL_STEPS, "learning_rate": max(training.learning_rate, SMALLEST_RATE)}
    request = request.model_copy(
        update={
            "train": Artifact(path=cut, digest=file_digest(cut)),
            "training": training.model_copy(update=few),
        }
    )
    # That a few steps teach nothing says nothing about the round.
    with only_errors("components.dpo"):
        trained = run_stage(
            "dpo_train", request, trial.directory, where=Placement(num_processes=training.num_processes)
        )
    return trained, len(table)
