"""The steps of preference collection on a user's own files: judge and pair, pair again, calibrate.

Each step publishes a directory. The answers of a judge that was interrupted stay beside that directory and are not
requested again.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from components.artifacts import MANIFEST, derive_seed, digest, publishing, read_json, verified, write_json
from components.campaign.lock import writing
from components.config import CampaignConfig, PreferencesConfig
from components.data.columns import format_columns
from components.data.messages import with_system
from components.data.preference_file import SeedPairs
from components.judges.chat.ledger import write_usage
from components.judges.health import CONFIDENCE, RESAMPLES, measure_health
from components.judges.protocol import Group, JudgeContext
from components.judges.registry import check_judge, judge_digest, load_judge
from components.judges.thoughts import as_shown
from components.preferences.active.refine import costly_judge
from components.preferences.counts import COUNTS, judged_counts
from components.preferences.judged_pairs import build_from_verdicts
from components.preferences.stage import building, collect
from components.preferences.standalone.calibration import (
    KnownPair,
    fit_scale,
    known,
    log_loss,
    no_question,
    predictions,
    questions,
)
from components.preferences.standalone.kept import Judged, write_groups
from components.preferences.tables import check_invalid_share, write_pairs, write_portable, write_verdicts
from components.records import JudgeUnavailable, ModelRef
from components.runtime import progress
from components.statistics.calibration import quality

CALIBRATION = "calibration.json"


def judge_and_pair(
    groups: Sequence[Group], config: CampaignConfig, models: tuple[ModelRef, ModelRef] | None, out: Path
) -> None:
    """Judge responses and build pairs.

    Writes the same files as a round's collect_preferences, and the prompts and responses beside them.

    Args:
        groups: Prompts and responses.
        config: Its sections `judge`, `preferences` and `active` are used, and its seed.
        models: Policy and start model, for judges that read them; None without a campaign.
        out: Directory to write; one that an earlier call wrote is replaced.

    Raises:
        ValueError: The judge cannot be used on these prompts, or `out` was not written by this command.
        Busy: Another process is writing `out`.
        JudgeUnavailable: As for a round.
    """
    refuse_demonstrations(config.preferences)
    _check_judge(groups, config, models)
    inputs = {
        "groups": _content(groups),
        "judge": judge_digest(config.judge),
        "preferences": config.preferences,
        "models": models,
    }
    if config.active.budget:
        check_judge(config.active.judge, [group.messages for group in groups], _columns(groups))
        inputs |= {"active": config.active, "active_judge": judge_digest(config.active.judge)}
    with published("collect", inputs | {"seed": config.seed}, out) as work:
        if work is not None:
            write_groups(work, groups)
            context, active = _context(config, models, out), config.active
            costly = costly_judge(load_judge(active.judge, context), active, context) if active.budget else None
            judge, build = load_judge(config.judge, context), building(config.preferences, config.judge, context)
            seed = derive_seed(config.seed, "collect")
            collect(groups, judge, build=build, preferences=config.preferences, seed=seed, out=work, costly=costly)
            write_usage(work, context.scratch)
            write_portable(work)


def refuse_demonstrations(preferences: PreferencesConfig) -> None:
    """Refuse pairs that no verdict decides.

    Raises:
        ValueError: One line with the remedy.
    """
    if preferences.takes_demonstrations:
        raise ValueError(
            f"preferences.pairs = {preferences.pairs} is built from demonstrations, and not from verdicts: run a "
            "campaign with it, or choose other pairs"
        )


def pair_again(judged: Judged, preferences: PreferencesConfig, *, seed: int, out: Path) -> None:
    """Build pairs from stored verdicts, without a judge; `out` and errors as for `judge_and_pair`."""
    if preferences.pairs == "revised":
        raise ValueError(
            "preferences.pairs = revised needs a chat model, but stored verdicts are paired without one: "
            "choose another value with --pairs"
        )
    refuse_demonstrations(preferences)
    groups, verdicts = judged
    inputs = {
        "verdicts": [verdict.verdict_id for verdict in verdicts],
        "groups": _content(groups),
        "preferences": preferences,
    }
    with published("pairs", inputs | {"seed": seed}, out) as work:
        if work is not None:
            built = build_from_verdicts(
                groups, verdicts, judge=judged.judge, preferences=preferences, seed=derive_seed(seed, "collect")
            )
            write_groups(work, groups)
            write_verdicts(work, verdicts)
            write_pairs(work, built.rows, groups)
            write_portable(work)
            write_json(work / COUNTS, judged_counts(groups, verdicts, built.outcomes.values(), built.rows))


def calibrate(pairs: SeedPairs, config: CampaignConfig, models: tuple[ModelRef, ModelRef] | None, out: Path) -> None:
    """Judge pairs with known labels, and write `calibration.json` and the verdicts.

    The other arguments and errors are as for `judge_and_pair`.
    """
    system_prompt = config.policy.system_prompt
    led = [replace(pair, messages=with_system(pair.messages, system_prompt)) for pair in pairs.pairs]
    asked = questions(led, default_tag=config.preferences.tag)
    if not asked:
        raise ValueError(no_question(pairs))
    groups = [question.group for question in asked]
    _check_judge(groups, config, models)
    inputs = {
        "pairs": pairs.digest,
        "judge": judge_digest(config.judge),
        "preferences": config.preferences,
        "models": models,
        **({"system_prompt": system_prompt} if system_prompt else {}),
    }
    with published("calibrate", inputs | {"seed": config.seed}, out) as work:
        if work is not None:
            context = _context(config, models, out)
            judge = load_judge(config.judge, context)
            verdicts = judge.judge(groups)
            write_usage(work, context.scratch)
            write_verdicts(work, verdicts)
            check_invalid_share(judge.name, verdicts, config.preferences.max_invalid_share)
            seed = derive_seed(config.seed, "calibrate")
            counts = {"judge": judge.name, "rows": pairs.num_rows, "labelled": len(asked)}
            measured = _calibration(
                known(asked, verdicts), judge.name, scale=config.preferences.soft_label_scale, seed=seed
            )
            health = measure_health(verdicts, as_shown(judge, groups), seed=seed).model_dump(mode="json")
            write_json(work / CALIBRATION, counts | measured | {"judge_health": health})


def _calibration(pairs: Sequence[KnownPair], judge: str, *, scale: float, seed: int) -> dict[str, Any]:
    if not pairs:
        raise JudgeUnavailable(f"judge {judge} returned no valid verdict on any pair with a known label")
    predicted, fitted = predictions(pairs, scale=scale), fit_scale(pairs)
    measure = partial(quality, confidence=CONFIDENCE, resamples=RESAMPLES, seed=seed)
    by_tag = {tag: [each for each in predicted if each.tag == tag] for tag in sorted({each.tag for each in predicted})}
    return {
        "judged": len(pairs),
        "soft_label_scale": scale,
        "quality": measure(predicted).model_dump(mode="json"),
        "by_tag": {tag: measure(of_tag).model_dump(mode="json") for tag, of_tag in by_tag.items()},
        "log_loss": log_loss(pairs, scale=scale),
        "fitted_soft_label_scale": fitted,
        "fitted_log_loss": None
        if fitted is None
        else log_loss([replace(pair, verdict_p=None) for pair in pairs], scale=fitted),
    }


def _check_judge(groups: Sequence[Group], config: CampaignConfig, models: tuple[ModelRef, ModelRef] | None) -> None:
    for judge in (config.judge, *([config.active.judge] if config.active.budget else [])):
        if judge.asks_people:
            raise ValueError(
                "judge.kind people judges the rounds of a campaign, on the page of `ratchet label`: name another judge"
            )
    check_judge(config.judge, [group.messages for group in groups], _columns(groups))
    if models is None and config.judge.reads_own_models:
        raise ValueError(
            f"judge.kind = {config.judge.kind} reads the campaign's own policy: name the campaign with --campaign"
        )


def _columns(groups: Sequence[Group]) -> set[str]:
    return {name for group in groups for name in group.columns}


def _context(config: CampaignConfig, models: tuple[ModelRef, ModelRef] | None, out: Path) -> JudgeContext:
    policy, start = models or (None, None)
    return JudgeContext(out.parent / f".{out.name}.judging", policy=policy, start=start, limits=config.policy)


def _content(groups: Sequence[Group]) -> str:
    content: list[Any] = [[group.prompt_id, [list(response) for response in group.responses]] for group in groups]
    if any(group.columns for group in groups):
        content.append([format_columns(group.columns) for group in groups])
    return digest(content)


VERSION = 1
STEPS = ("collect", "pairs", "calibrate")


@contextlib.contextmanager
def published(step: str, inputs: dict[str, Any], out: Path) -> Iterator[Path | None]:
    """Yield a directory that replaces `out` when the block ends, or None if `out` already has the result.

    Args:
        step: One of `STEPS`.
        inputs: Everything that the result depends on.
        out: Directory in which the result is published.

    Raises:
        ValueError: `out` was not written by one of the steps.
        Busy: Another process is writing `out`.
    """
    key = digest({"step": step, "version": VERSION, **inputs})
    _refuse_foreign(out)
    with writing(out, command=f"ratchet {step}"):
        published = verified(out, key, version=VERSION)
        if published is not None:
            progress.ended(out.name, step, published.seconds, already_done=True)
            yield None
            return
        began = time.monotonic()
        progress.began(out.name, step)
        with publishing(out, stage=step, version=VERSION, key=key) as workspace:
            yield workspace.path
        progress.ended(out.name, step, time.monotonic() - began, already_done=False)


def _refuse_foreign(out: Path) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    manifest = out / MANIFEST
    if not manifest.is_file() or read_json(manifest).get("stage") not in STEPS:
        raise ValueError(f"{out} exists and was not written by this command: choose another directory with --out")
