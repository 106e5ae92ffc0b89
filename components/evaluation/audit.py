"""The audit: the champion against the start and an earlier champion, on held-out prompts that no gate ever saw.

Gates test every round on prompts from one pool. What they let through is checked here on the rest of it.
"""

import logging
from typing import NamedTuple

from components.artifacts import derive_seed, read_table
from components.evaluation.answers import Answers, answer
from components.evaluation.held_out import HeldOut, audit_ids, chosen
from components.evaluation.judging import judge_answers
from components.evaluation.measurements import MODELS, known_only
from components.evaluation.samples import by_prompt
from components.judges.protocol import Judge
from components.models.tokens import load_chat
from components.records import Audit, EvaluateRequest, Interval
from components.statistics.intervals import win_rate

LEAST_PROMPTS = 16
"""Prompts below which an audit could tell nothing: fewer leave a win rate unknown to a quarter."""

log = logging.getLogger(__name__)


class AuditSamples(NamedTuple):
    """The answers of an audit, before they are judged."""

    held_out: HeldOut
    answers: Answers
    seed: int


def sample_audit(request: EvaluateRequest) -> AuditSamples | None:
    """Sample from the round's champion and the models of `request.audit`; ranks share the sampling.

    It comes before a judge is loaded, which may need the memory of these models, and for which no rank should wait.

    Args:
        request: The evaluation's request.

    Returns:
        The answers; None if no audit is due or there are too few prompts for one.
    """
    if request.audit is None:
        return None
    table = read_table(request.held_out)
    names = audit_ids(list(table["prompt_id"]), share=request.audit_share, seed=request.campaign_seed)
    if len(names) < LEAST_PROMPTS:
        log.warning(
            "gate.audit_share = %g leaves %d held-out prompts to audits, which need %d: name more held-out prompts",
            request.audit_share,
            len(names),
            LEAST_PROMPTS,
        )
        return None
    held_out = chosen(
        table,
        names[: request.num_held_out],
        load_chat(request.start, request.limits),
        max_prompt_tokens=request.limits.max_prompt_tokens,
    )
    seed = derive_seed(request.seed, "audit")
    # The champion is in the place of the challenger, and the earlier champion in its own.
    models = {"challenger": request.champion, "champion": request.audit.earlier, "seed": seed}
    asked = request.model_copy(update=models)
    answers = answer(asked, held_out.token_ids, [derive_seed(seed, name) for name, _ in held_out.prompts])
    return AuditSamples(held_out, answers, seed)


def judge_audit(request: EvaluateRequest, sampled: AuditSamples, judge: Judge) -> Audit:
    """Compare the champion with the start and the earlier champion by their answers.

    Args:
        request: The evaluation's request.
        sampled: The answers.
        judge: The evaluation judge.
    """
    held_out, answers, seed = sampled
    samples = request.evaluation.samples_per_prompt
    compared = [name for name in MODELS if name != "champion" or _moved(request)]
    comparison = judge_answers(judge, held_out, answers, models=compared, samples_per_prompt=samples)
    settings = request.evaluation
    rates = {}
    for opponent, rows in comparison.outcomes.items():
        known = [known_only(of_prompt) for of_prompt in by_prompt(rows, samples)]
        rates[opponent] = win_rate(
            [sum(outcomes) / len(outcomes) for outcomes in known if outcomes],
            confidence=settings.confidence,
            resamples=settings.bootstrap_resamples,
            seed=derive_seed(seed, "win_rate"),
        )
    return _finding(request, rates)


def _moved(request: EvaluateRequest) -> bool:
    """Return whether the earlier champion is another model than champion and start."""
    assert request.audit is not None
    return request.audit.earlier.digest not in (request.champion.digest, request.start.digest)


def _finding(request: EvaluateRequest, rates: dict[str, Interval]) -> Audit:
    """Say which of the gates' findings the audit contradicts: win rates that are surely below one half."""
    assert request.audit is not None
    names = {"start": "the start", "champion": f"the champion of round {request.audit.earlier.round}"}
    contradictions = tuple(
        f"on {rate.n} held-out prompts that no gate saw, round {request.champion.round}, the champion, wins "
        f"{rate.value:.3f} [{rate.low:.3f}, {rate.high:.3f}] against {names[opponent]}"
        for opponent, rate in rates.items()
        if rate.high < 0.5
    )
    return Audit(
        champion=request.champion.round,
        earlier=request.audit.earlier.round,
        win_rate_vs_start=rates["start"],
        win_rate_vs_earlier=rates.get("champion"),
        contradictions=contradictions,
    )
