"""The door of preference collection: judge responses and build pairs, or take demonstrations, a data set or thumbs."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from components.artifacts import read_table, write_json
from components.config import JudgeConfig, PreferencesConfig
from components.data.funnel import as_json, too_little
from components.judges.chat.ledger import write_usage
from components.judges.health import measure_health
from components.judges.health_limits import check_limits
from components.judges.protocol import JUDGING, Group, Judge, JudgeContext
from components.judges.registry import load_pinned_judge
from components.judges.revision import Reviser
from components.judges.thoughts import as_shown
from components.preferences.active.refine import CostlyJudge, costly_judge, refine
from components.preferences.counts import COUNTS, judged_counts, pair_counts, seeded_counts
from components.preferences.demonstrated_pairs import build_demonstrated
from components.preferences.demonstrations import read_answered, read_demonstrations
from components.preferences.judged_pairs import BuiltPairs, build_from_verdicts
from components.preferences.kept_verdicts import KeptVerdicts
from components.preferences.no_pairs import costly_step, demonstrated_step, judged_step, seeded_step
from components.preferences.people import write_people
from components.preferences.revised_pairs import revised_pairs
from components.preferences.seeds import seeded_pairs
from components.preferences.tables import (
    VERDICTS,
    check_invalid_share,
    read_groups,
    read_verdicts,
    write_outcomes,
    write_pairs,
    write_verdicts,
)
from components.preferences.thumbs import ThumbRows, add_to_round, thumb_rows
from components.records import Artifact, CollectRequest, DataRejected

Build = Callable[..., BuiltPairs]
"""(groups, verdicts, *, judge, preferences, seed) -> pairs, or single responses, to train on."""
NO_RESPONSES = "sample more responses: raise generation.samples_per_prompt"
"""Remedy if no step has one."""
NOT_JUDGED: dict[str, Any] = {"judge_health": None, "revisions": None, "active": None}
"""What `collect.json` says of a round that no judge saw."""


def run(request: CollectRequest, out: Path) -> None:
    """Write `verdicts.parquet`, `preferences.parquet` and `collect.json`.

    If prompts were judged, also write `prompt_outcomes.parquet`; if a chat endpoint was called, `judge_usage.json`; if
    people were asked, `people.json`.

    Raises:
        JudgeUnavailable: The judge returned no verdicts, too many of them are invalid, or they exceed one of its health
            limits.
        RoundWaits: People are asked, and their votes do not suffice yet.
        DataRejected: No pair could be built.
        ValueError: The judge or the data set is unusable, or changed since the campaign pinned it.
    """
    system_prompt = request.limits.system_prompt
    thumbs = None
    if request.feedback is not None:
        thumbs = thumb_rows(read_table(request.feedback), request.preferences, system_prompt=system_prompt)
    if request.responses is None or request.prompts is None:
        if thumbs is not None:
            take_thumbs(thumbs, out)
            return
        take_seeds(request.preferences, pinned_digest=request.seed_pairs_digest, system_prompt=system_prompt, out=out)
        return
    groups = read_groups(read_table(request.prompts), read_table(request.responses))
    if request.demonstrations is not None:
        take_demonstrations(groups, request, request.demonstrations, out)
        if thumbs is not None:
            add_to_round(out, thumbs.rows, {"rows": len(thumbs.rows), "left_out": as_json([thumbs.step])})
        return
    context = JudgeContext(
        out.parent / JUDGING / "collect_preferences", policy=request.policy, start=request.start, limits=request.limits
    )
    judge = load_pinned_judge(request.judge, context)
    pinned = request.active_judge
    costly = None if pinned is None else costly_judge(load_pinned_judge(pinned, context), request.active, context)
    if costly is not None and request.active.judge.asks_people:
        judge, costly = _kept_while_waiting(request, judge, costly, context)
    build = building(request.preferences, request.judge.config, context)
    collect(groups, judge, build=build, preferences=request.preferences, seed=request.seed, out=out, costly=costly)
    if request.judge.config.asks_people or (pinned is not None and pinned.config.asks_people):
        checked = None if request.checked_judge is None else load_pinned_judge(request.checked_judge, context)
        verdicts = read_verdicts(read_table(out / VERDICTS))
        write_people(out, groups, verdicts, scratch=context.scratch, checked=checked, seed=request.seed)
    write_usage(out, context.scratch)
    if thumbs is not None:
        add_to_round(out, thumbs.rows, {"rows": len(thumbs.rows), "left_out": as_json([thumbs.step])})


def _kept_while_waiting(
    request: CollectRequest, judge: Judge, costly: CostlyJudge, context: JudgeContext
) -> tuple[Judge, CostlyJudge]:
    """Return the judges that choose the questions for people, with their verdicts kept."""
    own = KeptVerdicts(judge, context.scratch / "judge.json", identity=request.judge.digest)
    if costly.implicit_reward is not None:
        kept = context.scratch / "implicit_reward.json"
        reward = KeptVerdicts(costly.implicit_reward, kept, identity=request.policy.digest)
        costly = costly._replace(implicit_reward=reward)
    return own, costly


def building(preferences: PreferencesConfig, judge: JudgeConfig, context: JudgeContext) -> Build:
    """Return the function that builds pairs, or single responses, from verdicts."""
    if preferences.pairs == "revised":
        return partial(revised_pairs, reviser=Reviser(judge, context))
    return build_from_verdicts


def collect(
    groups: Sequence[Group],
    judge: Judge,
    *,
    build: Build,
    preferences: PreferencesConfig,
    seed: int,
    out: Path,
    costly: CostlyJudge | None,
) -> None:
    """Judge the responses to each prompt, build pairs, have some judged again, and write everything with the counts.

    Verdicts and health are written before a limit stops the round. The costly judge is not called if the judge exceeds
    a limit.
    """
    verdicts = judge.judge(groups)
    write_verdicts(out, verdicts)
    check_invalid_share(judge.name, verdicts, preferences.max_invalid_share)
    built = build(groups, verdicts, judge=judge.name, preferences=preferences, seed=seed)
    write_pairs(out, built.rows, groups)
    write_outcomes(out, built.rows, built.outcomes, verdicts)
    health = measure_health(verdicts, as_shown(judge, groups), seed=seed)
    steps = [judged_step(groups, built, preferences)]
    measured = {"judge_health": health.model_dump(mode="json"), "revisions": built.revisions}
    counts = judged_counts(groups, verdicts, built.outcomes.values(), built.rows) | measured
    write_json(out / COUNTS, {**counts, "active": None, "left_out": as_json(steps)})
    check_limits(judge.name, health, preferences)
    if not built.rows:
        raise DataRejected(too_little("no pair could be built", steps, otherwise=NO_RESPONSES))
    if costly is not None:
        refined = refine(built.rows, groups, verdicts, costly=costly, preferences=preferences, seed=seed)
        write_verdicts(out, [*verdicts, *refined.verdicts])
        write_pairs(out, refined.rows, groups)
        rest = costly.active.rest
        steps.append(costly_step(len(built.rows), refined.counts, rest=rest, preferences=preferences))
        refined_counts = {**pair_counts(refined.rows), "active": refined.counts, "left_out": as_json(steps)}
        write_json(out / COUNTS, {**counts, **refined_counts})
        if not refined.rows:
            raise DataRejected(too_little("no pair is left after the costly judge", steps, otherwise=NO_RESPONSES))


def take_seeds(preferences: PreferencesConfig, *, pinned_digest: str | None, system_prompt: str, out: Path) -> None:
    """Write the pairs of the data set that seeds a round, and no verdicts."""
    built = seeded_pairs(preferences, pinned_digest=pinned_digest, system_prompt=system_prompt)
    write_verdicts(out, [])
    write_pairs(out, built.rows, groups=())
    steps = [seeded_step(built.outcomes, built.largest_margin, preferences)]
    if not built.rows:
        headline = f"no pair of preferences.seed_pairs = {preferences.seed_pairs} can be trained on"
        raise DataRejected(too_little(headline, steps, otherwise="name other pairs"))
    write_json(out / COUNTS, {**seeded_counts(built.outcomes, built.rows), **NOT_JUDGED, "left_out": as_json(steps)})


def take_demonstrations(groups: Sequence[Group], request: CollectRequest, table: Artifact, out: Path) -> None:
    """Write pairs of demonstrations and of what policies answered to their prompts, and no verdicts.

    A policy that answers as the demonstrations do leaves few pairs or none; that is published, and no error.
    """
    preferences = request.preferences
    built = build_demonstrated(
        read_demonstrations(table),
        groups,
        [read_answered(answered) for answered in request.answered],
        champion=request.policy.round,
        source=f"demonstrations:{Path(preferences.demonstrations).name}",
        preferences=preferences,
        seed=request.seed,
    )
    write_verdicts(out, [])
    write_pairs(out, built.rows, built.sampled)
    steps = [demonstrated_step(built.outcomes)]
    responses = {"responses": built.counts["answers"], "demonstrations": built.counts}
    counts = seeded_counts(list(built.outcomes.values()), built.rows) | NOT_JUDGED | responses
    write_json(out / COUNTS, {**counts, "left_out": as_json(steps)})


def take_thumbs(thumbs: ThumbRows, out: Path) -> None:
    """Write the rows of thumbs that are a round's whole data, and no verdicts."""
    write_verdicts(out, [])
    write_pairs(out, thumbs.rows, groups=())
    if not thumbs.rows:
        raise DataRejected(too_little("no thumb can be trained on", [thumbs.step], otherwise="wait for more thumbs"))
    counts = {"rows": len(thumbs.rows), "left_out": as_json([thumbs.step])}
    seen = {**seeded_counts(thumbs.outcomes, thumbs.rows), **NOT_JUDGED, "left_out": as_json([thumbs.step])}
    write_json(out / COUNTS, seen | {"feedback": counts})
