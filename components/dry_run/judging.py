"""The judges of a round, tried on the responses of a dry run.

Judges on this machine judge them. Chat models are never asked: their questions are counted. A judge of a kind that is
in neither set runs code of the user's, which may ask a paid service, so it is not called.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from components.artifacts import derive_seed
from components.config import CampaignConfig, JudgeConfig
from components.dry_run.pairs import UNJUDGED, falling_scores
from components.judges.chat.ledger import Tokens
from components.judges.chat.rehearsal import Asked, rehearsing
from components.judges.protocol import Group, JudgeContext, Verdict
from components.judges.registry import AnyJudge, describe_judge, load_judge
from components.judges.revision import Reviser
from components.preferences.revised_pairs import revised_pairs

LOCAL = frozenset({"rule", "reward_model", "implicit_reward", "inferred_reward"})
ASKED = frozenset({"llm", "self", "constitution", "debate"})


@dataclass(frozen=True)
class JudgeTrial:
    """One judge, or juror, tried on some groups."""

    name: str
    groups: int
    load_seconds: float = 0.0
    """Seconds until it could judge; they do not grow with the groups."""
    judge_seconds: float | None = None
    """Seconds in which it judged the groups; None if it did not."""
    asked: tuple[Asked, ...] = ()
    """What it would ask of chat endpoints about the groups."""

    def seconds(self, groups: float) -> float | None:
        """Return how long it takes for so many groups; None if it did not judge."""
        return None if self.judge_seconds is None else self.load_seconds + self.judge_seconds * groups / self.groups


@dataclass(frozen=True)
class Calls:
    """What a stage would ask of one endpoint."""

    stage: str
    model: str
    questions: int
    tokens: Tokens
    cost: float | None
    """The most that it costs if every answer is valid; None if a price is not known."""
    cost_with_repairs: float | None
    """The most that it costs if no answer is valid at first; None if a price is not known."""


@dataclass(frozen=True)
class Judged:
    """What the judges of a stage would do in a round."""

    seconds: float | None
    """None if the time of one of them is not known."""
    calls: tuple[Calls, ...]
    not_called: tuple[str, ...]
    """Judges that may ask a service of the user's and were left alone."""
    verdicts: list[Verdict] | None = None
    """On the tried groups, by a judge that runs here; None for any other."""


def judge_groups(
    config: JudgeConfig, groups: Sequence[Group], context: JudgeContext, *, stage: str, scale: float
) -> Judged:
    """Try a judge, or each juror of a jury, on a share of a round's groups.

    Args:
        config: The judge.
        groups: The groups to try it on.
        context: As in the stage, with a scratch directory of the dry run.
        stage: Stage that asks.
        scale: How many times as many groups the round has.

    Raises:
        ValueError: The judge cannot be loaded.
    """
    judges: Sequence[AnyJudge] = config.jurors if config.kind == "jury" else (config,)
    tried = [_tried(judge, groups, context) for judge in judges]
    trials = [trial for trial, _ in tried]
    seconds = [trial.seconds(len(groups) * scale) for trial in trials]
    known = [each for each in seconds if each is not None]
    return Judged(
        sum(known) if len(known) == len(seconds) else None,
        tuple(call for trial in trials for call in scaled_calls(stage, trial.asked, scale)),
        tuple(trial.name for trial in trials if trial.judge_seconds is None and not trial.asked),
        tried[0][1] if config.kind in LOCAL else None,
    )


def judge_collection(config: CampaignConfig, groups: Sequence[Group], context: JudgeContext, *, scale: float) -> Judged:
    """Try everything that judges while pairs are collected: the judge, the reviser and the costly judge."""
    stage = "collect_preferences"
    judged = judge_groups(config.judge, groups, context, stage=stage, scale=scale)
    if config.preferences.pairs == "revised":
        with rehearsing() as rehearsal:
            revised_pairs(
                groups,
                falling_scores(groups),
                judge=UNJUDGED,
                preferences=config.preferences,
                seed=derive_seed(config.seed, "dry-run"),
                reviser=Reviser(config.judge, context),
            )
        judged = replace(judged, calls=(*judged.calls, *scaled_calls(stage, rehearsal.asked, scale)))
    if config.active.budget:
        pairs = [replace(group, responses=group.responses[:2]) for group in groups if len(group.responses) > 1]
        costly = judge_groups(
            config.active.judge, pairs, context, stage=stage, scale=config.active.budget / max(1, len(pairs))
        )
        judged = together(judged, costly)
    return judged


def judge_evaluation(
    config: CampaignConfig, groups: Sequence[Group], context: JudgeContext, *, held_out: int, opponents: int
) -> Judged:
    """Try everything that judges held-out responses, at its most: no look ends it, and the hold-out judge is asked.

    Args:
        config: The campaign.
        groups: Pairs of responses to try them on.
        context: As in the stage, with a scratch directory of the dry run.
        held_out: Held-out prompts of a round.
        opponents: Models that the challenger is compared with.
    """
    scale = held_out / max(1, len(groups))
    judged = judge_groups(config.evaluation_judge, groups, context, stage="evaluate", scale=opponents * scale)
    if config.holdout_judge is None:
        return judged
    return together(judged, judge_groups(config.holdout_judge, groups, context, stage="evaluate", scale=scale))


def together(one: Judged, other: Judged) -> Judged:
    """Return what two judges do; the verdicts are those of the first."""
    both = [one.seconds, other.seconds]
    return replace(
        one,
        seconds=None if None in both else sum(each for each in both if each is not None),
        calls=(*one.calls, *other.calls),
        not_called=(*one.not_called, *other.not_called),
    )


def _tried(config: AnyJudge, groups: Sequence[Group], context: JudgeContext) -> tuple[JudgeTrial, list[Verdict] | None]:
    name = describe_judge(config)
    if config.kind not in LOCAL | ASKED or not groups:
        return JudgeTrial(name, len(groups)), None
    began = time.monotonic()
    with rehearsing() as rehearsal:
        judge = load_judge(config, context)
        loaded = time.monotonic()
        verdicts = judge.judge(groups)
    ended = time.monotonic()
    if config.kind in ASKED:
        return JudgeTrial(name, len(groups), asked=tuple(rehearsal.asked)), None
    return JudgeTrial(name, len(groups), loaded - began, ended - loaded), verdicts


def scaled_calls(stage: str, asked: Sequence[Asked], scale: float) -> list[Calls]:
    """Return what a stage would ask, if it is `scale` times as much as was counted."""

    def price(cost: float | None) -> float | None:
        return None if cost is None else cost * scale

    return [
        Calls(
            stage,
            each.endpoint.model,
            round(len(each.input_tokens) * scale),
            Tokens(*(round(tokens * scale) for tokens in each.tokens)),
            price(each.cost),
            price(each.cost_with_repairs),
        )
        for each in asked
    ]
