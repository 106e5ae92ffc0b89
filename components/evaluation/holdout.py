"""The hold-out judge: a second judge, which never makes training pairs, on a challenger that is about to be promoted.

A policy that is trained against one judge learns that judge's mistakes too. A judge that it was never trained against
must not prefer the champion.
"""

from pathlib import Path
from typing import Any

from components.artifacts import derive_seed
from components.evaluation.answers import Answers
from components.evaluation.held_out import HeldOut
from components.evaluation.judging import judge_answers
from components.evaluation.measurements import known_only, mean
from components.evaluation.samples import by_prompt
from components.judges.protocol import JudgeContext
from components.judges.registry import load_pinned_judge
from components.records import EvaluateRequest
from components.statistics.non_inferiority import paired_loss

SCRATCH = "holdout"
"""Folder of what the judge keeps, in that of the evaluation, so that the stage's usage counts its calls."""


def ask_holdout_judge(
    request: EvaluateRequest, held_out: HeldOut, answers: Answers, *, scratch: Path
) -> dict[str, Any] | None:
    """Return what the hold-out judge says of the challenger against the champion, on all held-out prompts.

    Args:
        request: The evaluation's request.
        held_out: The prompts.
        answers: The responses to them.
        scratch: Directory of what the evaluation's judges keep.

    Returns:
        `judge`, `win_rate` (ties half) and `loss` (`value`, `upper`, `confidence`, `n`): by how much larger the share
        of prompts is on which it prefers the champion. None without such a judge.

    Raises:
        JudgeUnavailable: Too many comparisons have no verdict.
    """
    if request.holdout_judge is None:
        return None
    context = JudgeContext(scratch / SCRATCH, policy=request.champion, start=request.start, limits=request.limits)
    judge = load_pinned_judge(request.holdout_judge, context)
    samples, models = request.evaluation.samples_per_prompt, ("challenger", "champion")
    comparison = judge_answers(judge, held_out, answers, models=models, samples_per_prompt=samples)
    rows = by_prompt(comparison.outcomes["champion"], samples)
    outcomes = [mean(known) for of_prompt in rows if (known := known_only(of_prompt))]
    confidence = request.evaluation.confidence
    loss = paired_loss(
        outcomes,
        [1 - outcome for outcome in outcomes],
        confidence=confidence,
        seed=derive_seed(request.seed, "holdout_judge"),
    )
    return {
        "judge": judge.name,
        "win_rate": mean(outcomes),
        "loss": {"value": loss.value, "upper": loss.upper, "confidence": confidence, "n": loss.num_items},
    }
