"""What a round will do and take: counts, and the times of its stages from those of a trial."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from components.artifacts import read_json, read_table
from components.config import CampaignConfig
from components.dry_run.estimates import Counts, Rate, StageEstimate, num_steps, typical
from components.dry_run.judging import Calls, Judged
from components.dry_run.prompt import ShownPrompt
from components.records import Artifact, Manifest

Source = Literal["samples", "data set", "thumbs"]
MOST_PROMPTS = 64
"""Prompts to sample for: with the usual four responses each, as many rows as a CPU decodes together."""
FORWARD_SHARE = 1 / 3
"""Share of a training step that its forward takes; a backward takes twice as long as a forward."""


@dataclass(frozen=True)
class Sizes:
    """How much the round has, and how much of it is tried."""

    train_prompts: int
    held_out_prompts: int
    round_prompts: int
    """Prompts of the round; 0 if its data come from outside."""
    tried_prompts: int
    """Prompts that are sampled for in the trial, for the evaluation's sake also if the round samples none."""
    judged_held_out: int
    """Held-out prompts that the evaluation uses."""
    models: int
    """Different models that the evaluation samples from."""


@dataclass(frozen=True)
class RoundPlan:
    """The round as it is expected to be."""

    sizes: Sizes
    prompt: ShownPrompt
    pairs: float
    """Pairs of the round that are trained on, the replayed ones among them."""
    pairs_basis: str
    steps: int
    stages: tuple[StageEstimate, ...]
    calls: tuple[Calls, ...]
    not_called: tuple[str, ...]


@dataclass(frozen=True)
class Trial:
    """What was tried, and what it took."""

    config: CampaignConfig
    sizes: Sizes
    source: Source
    """Where the round's data come from."""
    generated: Manifest
    validated: Manifest
    trained: Manifest
    directory: Path
    """The trial's round."""
    counts: Counts
    collected: Judged
    evaluated: Judged
    replayed: tuple[Artifact, ...]
    step_pairs: int
    """Pairs of each of the trial's optimizer steps."""

    @property
    def seeded(self) -> bool:
        """Whether the data come from outside, so that the round samples none."""
        return self.source != "samples"

    @property
    def pairs_per_second(self) -> list[float]:
        """Speed of each of the trial's optimizer steps."""
        lines = (self.directory / "dpo_train" / "metrics.jsonl").read_text().splitlines()
        return [float(json.loads(line)["pairs_per_second"]) for line in lines]


def trial_sizes(config: CampaignConfig, pins: dict[str, Any], *, seeded: bool, from_start: bool) -> Sizes:
    """Return the sizes of a round and of its trial.

    Args:
        config: The campaign's configuration.
        pins: Content of start.json.
        seeded: Whether the round's data come from outside.
        from_start: Whether the start model is the champion.
    """
    pool = pins["demonstrations"]["prompts"] if config.preferences.takes_demonstrations else pins["num_train_prompts"]
    drawn = 0 if seeded else min(config.prompts.per_round, pool)
    tried = min(drawn or pool, MOST_PROMPTS)
    held_out = pins["num_held_out_prompts"]
    return Sizes(
        pool,
        held_out,
        drawn,
        tried,
        min(config.prompts.num_held_out, held_out),
        2 if from_start else 3,
    )


def plan_round(trial: Trial, prompt: ShownPrompt) -> RoundPlan:
    """Return the round's counts, and its stages with their times and memory."""
    sizes, validation = trial.sizes, trial.config.validation
    tried_pairs = read_json(trial.directory / "validate_data" / "validation.json")["train"]
    scale = 1.0 if trial.seeded else sizes.round_prompts / sizes.tried_prompts
    own = tried_pairs * scale * (1 - validation.eval_share)
    replayed = sum(len(read_table(each)) for each in trial.replayed)
    judged = not trial.seeded and not trial.config.preferences.takes_demonstrations
    unjudged = judged and trial.collected.verdicts is None
    basis = f"{tried_pairs} from {sizes.tried_prompts} prompts{', if the judge decides all' if unjudged else ''}"
    training = trial.config.training
    steps = num_steps(round(own + replayed), pairs_per_step=training.pairs_per_step, epochs=training.epochs)
    collected, evaluated = trial.collected, trial.evaluated
    return RoundPlan(
        sizes,
        prompt,
        own + replayed,
        f"{tried_pairs} in the {trial.source}" if trial.seeded else basis,
        steps,
        tuple(_stages(trial, steps, own + replayed, scale)),
        (*collected.calls, *evaluated.calls),
        tuple(dict.fromkeys((*collected.not_called, *evaluated.not_called))),
    )


def _stages(trial: Trial, steps: int, pairs: float, scale: float) -> list[StageEstimate]:
    generated, validated = trial.generated, trial.validated
    samples = trial.config.generation.samples_per_prompt
    # Reports of child processes may come too close together to tell the sampling from the loading.
    sampling = trial.counts.rate(generated.stage, total=trial.sizes.tried_prompts * samples)
    sampling = sampling or Rate(trial.sizes.tried_prompts * samples, generated.seconds)
    load = max(0.0, generated.seconds - sampling.seconds)
    whole = {"data set": "tried on the whole data set", "thumbs": "tried on all thumbs"}
    tried = whole.get(trial.source, f"tried on {trial.sizes.tried_prompts} prompts")
    return [
        *([] if trial.seeded else [_generation(trial, sampling, load)]),
        StageEstimate("collect_preferences", trial.collected.seconds, None, _judging_basis(trial.collected, tried)),
        StageEstimate(validated.stage, validated.seconds * scale, validated.peak_memory_bytes, tried),
        _training(trial, steps, pairs),
        _evaluation(trial, sampling, load),
    ]


def _generation(trial: Trial, sampling: Rate, load: float) -> StageEstimate:
    generated, everything = trial.generated, trial.sizes.round_prompts * trial.config.generation.samples_per_prompt
    basis = f"{sampling.units:.0f} of {everything} responses in {generated.seconds:.1f} s"
    seconds = load + sampling.seconds_for(everything)
    return StageEstimate(generated.stage, seconds, generated.peak_memory_bytes, basis)


def _training(trial: Trial, steps: int, pairs: float) -> StageEstimate:
    trained, speeds = trial.trained, trial.pairs_per_second
    rest = trained.seconds - sum(trial.step_pairs / speed for speed in speeds)
    reads_reference = read_json(trial.directory / trained.stage / "train.json")["reference_read"]
    scored = _scoring_seconds(trial, pairs) if reads_reference else 0.0
    step = _step_seconds(trial)
    return StageEstimate(
        trained.stage,
        max(0.0, rest) + scored + steps * step,
        trained.peak_memory_bytes,
        f"{len(speeds)} of {steps} steps, {step:.2g} s each",
    )


def _step_seconds(trial: Trial) -> float:
    """Return the seconds of an optimizer step over all its pairs."""
    return typical([trial.config.training.pairs_per_step / speed for speed in trial.pairs_per_second])


def _scoring_seconds(trial: Trial, pairs: float) -> float:
    """Return the seconds in which so many pairs of responses are scored without gradients."""
    return FORWARD_SHARE * _step_seconds(trial) * pairs / trial.config.training.pairs_per_step


def _evaluation(trial: Trial, sampling: Rate, load: float) -> StageEstimate:
    """Estimate the evaluation by the speeds of sampling and scoring; it holds one model at a time, as sampling does."""
    sizes, judge = trial.sizes, trial.evaluated.seconds
    if judge is None:
        return StageEstimate("evaluate", None, None, _judging_basis(trial.evaluated, ""))
    held_out = sizes.judged_held_out
    seconds = sizes.models * (load + sampling.seconds_for(held_out)) + _scoring_seconds(trial, held_out) + judge
    basis = f"{sizes.models} models x {held_out} prompts, sampled as fast"
    return StageEstimate("evaluate", seconds, None, basis)


def _judging_basis(judged: Judged, tried: str) -> str:
    return tried if judged.seconds is not None else "unknown, because the judge was not asked"
