"""The door of evaluation: compares challenger, champion and start on the held-out prompts."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from components.artifacts import derive_seed, read_json, read_table, write_json, write_table
from components.data.messages import Messages
from components.evaluation.answers import Answers, answer
from components.evaluation.audit import judge_audit, sample_audit
from components.evaluation.evidence import PromotionEvidence
from components.evaluation.held_out import HeldOut, chosen, gate_ids, tags_of
from components.evaluation.holdout import ask_holdout_judge
from components.evaluation.judging import judge_answers
from components.evaluation.measurements import (
    MODELS,
    divergence,
    diversity,
    known_only,
    lengths_of,
    mean,
    per_prompt,
    unfinished_increase,
    win_rates,
)
from components.evaluation.outcomes import HeldOutComparison, function_means, principle_violations
from components.evaluation.rules import judged_violations, violation_shares
from components.evaluation.samples import repeated
from components.judges.chat.ledger import write_usage
from components.judges.health import measure_health
from components.judges.protocol import JUDGING, Judge, JudgeContext
from components.judges.registry import load_pinned_judge
from components.judges.thoughts import as_shown
from components.judges.wording import as_text
from components.models.tokens import load_chat
from components.plots.stages import evaluation_plots
from components.records import EvaluateRequest
from components.regression.run import CACHE, regress
from components.runtime.ranks import pick_own_device, rank

log = logging.getLogger(__name__)


def run(request: EvaluateRequest, out: Path) -> None:
    """Write `evaluation.json`, `samples.parquet`, `plots/` and, if a chat endpoint was asked, `judge_usage.json`.

    Ranks share the sampling and scoring; rank 0 judges and writes.

    Raises:
        JudgeUnavailable: Too many comparisons have no verdict.
        ValueError: No held-out prompt is short enough, or a model or the judge cannot be used.
        RuntimeError: A model's logits are not finite.
    """
    pick_own_device()
    held_out = _held_out(request)
    seeds = [derive_seed(request.seed, prompt_id) for prompt_id, _ in held_out.prompts]
    answers = answer(request, held_out.token_ids, seeds)
    regression = regress(
        {name: getattr(request, name) for name in ("challenger", "champion", "start")},
        config=request.regression,
        limits=request.limits,
        engine=request.engine,
        batch_size=request.batch_size,
        tensor_parallel_size=request.tensor_parallel_size,
        cache=out.parent.parent / CACHE,
    )
    audited = sample_audit(request)
    if rank() != 0:
        return
    context = JudgeContext(
        out.parent / JUDGING / "evaluate", policy=request.champion, start=request.start, limits=request.limits
    )
    judge = load_pinned_judge(request.judge, context)
    evidence = PromotionEvidence(
        request.test, num_prompts=len(held_out.prompts), samples_per_prompt=request.evaluation.samples_per_prompt
    )
    comparison = _compare(request, held_out, answers, judge, evidence)
    holdout = ask_holdout_judge(request, held_out, answers, scratch=context.scratch) if evidence.shown else None
    judged = per_prompt(comparison, request.evaluation.samples_per_prompt)
    content = {
        "num_prompts": len(held_out.prompts),
        "skipped_long_prompts": held_out.skipped,
        "judge": judge.name,
        "evidence": evidence.result.model_dump(),
        "evidence_ended": evidence.ended,
        "e_values": evidence.e_values,
        **win_rates(request, judged, answers.responses),
        "mean_reward": judged.mean_rewards,
        **divergence(request, answers.log_ratios),
        **_responses_measured(request, held_out, answers, context.scratch),
        **_verdicts_measured(request, comparison, judge),
        **_implicit_reward(request),
        **({"regression": regression} if regression else {}),
        **({"holdout_judge": holdout} if request.holdout_judge else {}),
        "audit": None if audited is None else judge_audit(request, audited, judge).model_dump(mode="json"),
    }
    content["violations"] |= _principle_violations(request, comparison)
    write_usage(out, context.scratch)
    write_json(out / "evaluation.json", content)
    write_table(out / "samples.parquet", _samples(request, held_out, answers, comparison))
    evaluation_plots(
        out,
        rewards={name: known_only(values) for name, values in (judged.rewards or {}).items()},
        lengths=lengths_of(answers.responses),
        outcomes_vs_champion=known_only(judged.outcomes["champion"]),
        outcomes_vs_start=known_only(judged.outcomes["start"]),
        e_values=evidence.e_values,
        level=request.test.level,
    )


def _held_out(request: EvaluateRequest) -> HeldOut:
    table = read_table(request.held_out)
    tags = tags_of(table, request.tag_column)
    names, seen = gate_ids(
        tags,
        round=request.round,
        size=request.num_held_out,
        audit_share=request.audit_share,
        seed=request.campaign_seed,
    )
    if seen:
        log.info(
            "some of the %d held-out prompts were in the gate of an earlier round: with %d of them no round would see "
            "one again",
            len(names),
            request.round * len(names),
        )
    chat = load_chat(request.start, request.limits)
    return chosen(table, names, chat, max_prompt_tokens=request.limits.max_prompt_tokens)


def _compare(
    request: EvaluateRequest, held_out: HeldOut, answers: Answers, judge: Judge, evidence: PromotionEvidence
) -> HeldOutComparison:
    """Judge the responses; if champion and start are the same model, it is judged once and counts for both."""
    judged = _judged_models(request)
    comparison = judge_answers(
        judge,
        held_out,
        answers,
        models=judged,
        samples_per_prompt=request.evaluation.samples_per_prompt,
        look_every=request.test.look_every,
        enough=evidence.enough,
    )
    if "start" in judged:
        return comparison
    outcomes, rewards = comparison.outcomes, comparison.rewards
    return replace(
        comparison,
        outcomes=outcomes | {"start": outcomes["champion"]},
        rewards=None if rewards is None else rewards | {"start": rewards["champion"]},
    )


def _responses_measured(request: EvaluateRequest, held_out: HeldOut, answers: Answers, scratch: Path) -> dict[str, Any]:
    """Return what is measured on all sampled responses, whether or not they were judged."""
    responses, samples = answers.responses, request.evaluation.samples_per_prompt
    lengths = lengths_of(answers.responses)
    return {
        "mean_tokens": {name: mean(lengths[name]) for name in MODELS},
        "empty_share": {name: mean([response.empty for response in responses[name]]) for name in MODELS},
        "unfinished_share": {name: mean([response.unfinished for response in responses[name]]) for name in MODELS},
        "unfinished_increase": unfinished_increase(request, responses),
        "diversity": {name: diversity(responses[name]) for name in MODELS},
        "violations": violation_shares(responses, request.constraints)
        | judged_violations(
            responses,
            repeated([messages for _, messages in held_out.prompts], samples),
            repeated(held_out.columns, samples),
            request.constraints,
            scratch=scratch,
        ),
    }


def _verdicts_measured(request: EvaluateRequest, comparison: HeldOutComparison, judge: Judge) -> dict[str, Any]:
    """Return what is measured on the verdicts themselves."""
    health = measure_health(comparison.verdicts, as_shown(judge, comparison.groups), seed=request.seed)
    return {
        **_function_means(request, comparison),
        "invalid_share": comparison.invalid_share,
        "judge_health": health.model_dump(mode="json"),
    }


def _principle_violations(
    request: EvaluateRequest, comparison: HeldOutComparison
) -> dict[str, dict[str, float | None]]:
    """Return the shares by principle and model; if champion and start are the same model, both get its shares."""
    violations = principle_violations(comparison.verdicts, models=_judged_models(request))
    return {principle: {"start": shares["champion"]} | shares for principle, shares in violations.items()}


def _function_means(request: EvaluateRequest, comparison: HeldOutComparison) -> dict[str, Any]:
    """Return what each of several functions of the user said of the models; nothing for other judges."""
    means = function_means(comparison.verdicts, models=_judged_models(request))
    functions = {function: {"start": of_model["champion"]} | of_model for function, of_model in means.items()}
    return {"functions": functions} if functions else {}


def _judged_models(request: EvaluateRequest) -> list[str]:
    """Return the models whose responses were judged: if champion and start are the same, they are judged once."""
    same = request.champion.digest == request.start.digest
    return [name for name in MODELS if not (same and name == "start")]


def _implicit_reward(request: EvaluateRequest) -> dict[str, float | None]:
    """Return how well the trained policy's implicit reward orders the pairs of the evaluation split.

    The values are None if the split is empty.
    """
    pairs = read_json(request.training.path)["eval"]
    names = {"reward_accuracy": "rewards/accuracies", "reward_margin": "rewards/margins"}
    return {name: None if pairs is None else pairs[key] for name, key in names.items()}


def _samples(
    request: EvaluateRequest, held_out: HeldOut, answers: Answers, comparison: HeldOutComparison
) -> pd.DataFrame:
    """Return the first response of each model to the first judged prompts, side by side."""
    samples = request.evaluation.samples_per_prompt
    rows = range(0, min(len(comparison.outcomes["champion"]), request.evaluation.num_samples * samples), samples)
    unscored: list[float | None] = [None] * len(comparison.outcomes["champion"])
    rewards = comparison.rewards or {}
    words = {
        "prompt_id": [held_out.prompts[row // samples][0] for row in rows],
        "prompt": [_asked(held_out.prompts[row // samples][1]) for row in rows],
        **{name: [answers.responses[name][row].text for row in rows] for name in MODELS},
    }
    numbers = {f"reward_{name}": [rewards.get(name, unscored)[row] for row in rows] for name in MODELS}
    numbers |= {
        f"outcome_vs_{opponent}": [comparison.outcomes[opponent][row] for row in rows]
        for opponent in ("champion", "start")
    }
    return pd.concat([pd.DataFrame(words, dtype="str"), pd.DataFrame(numbers, dtype="float64")], axis=1)


def _asked(messages: Messages) -> str:
    """Return what is asked last: the user's message, with the calls and results of tools that follow it."""
    last = max((place for place, message in enumerate(messages) if message["role"] == "user"), default=0)
    content: str = messages[-1]["content"]
    return content if last == len(messages) - 1 else as_text(messages[last:])
