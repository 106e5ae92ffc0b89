"""The door of evaluation: compares challenger, champion and start on the held-out prompts."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from components.artifacts import derive_seed, read_json, read_table, write_json, write_table
from components.data.columns import columns_of_table
from components.data.funnel import counted, step, too_little
from components.data.messages import Messages, parse_messages
from components.evaluation.answers import Answers, answer
from components.evaluation.outcomes import HeldOutComparison, compare, function_means, principle_violations
from components.evaluation.rules import judged_violations, violation_shares
from components.generation.responses import Response
from components.judges.chat.ledger import write_usage
from components.judges.health import measure_health
from components.judges.protocol import JUDGING, Judge, JudgeContext, SampledTokens
from components.judges.registry import load_pinned_judge
from components.judges.thoughts import as_shown
from components.judges.wording import as_text
from components.models.tokens import load_chat
from components.plots.stages import evaluation_plots
from components.records import EvaluateRequest, Interval
from components.runtime.ranks import pick_own_device, rank
from components.statistics.diversity import distinct
from components.statistics.intervals import mean_interval, share_change, win_rate

MODELS = ("start", "champion", "challenger")

log = logging.getLogger(__name__)


class HeldOut(NamedTuple):
    """The held-out prompts of the evaluation, in the table's order."""

    prompts: list[tuple[str, Messages]]
    columns: list[dict[str, Any]]
    """The other columns of each prompt's row."""
    token_ids: list[list[int]]
    skipped: int
    """Number of prompts that are longer than `max_prompt_tokens` and therefore left out."""


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
    if rank() != 0:
        return
    context = JudgeContext(
        out.parent / JUDGING / "evaluate", policy=request.champion, start=request.start, limits=request.limits
    )
    judge = load_pinned_judge(request.judge, context)
    comparison = _compare(request, held_out, answers, judge)
    write_usage(out, context.scratch)
    health = measure_health(comparison.verdicts, as_shown(judge, comparison.groups), seed=request.seed)
    rewards = comparison.rewards
    lengths = {name: [len(response.token_ids) for response in answers.responses[name]] for name in MODELS}
    content = {
        "num_prompts": len(held_out.prompts),
        "skipped_long_prompts": held_out.skipped,
        "judge": judge.name,
        **_win_rates(request, comparison),
        "mean_reward": None if rewards is None else {name: _mean(_known(rewards[name])) for name in MODELS},
        **_divergence(request, answers.log_ratios),
        "mean_tokens": {name: _mean(lengths[name]) for name in MODELS},
        "empty_share": {name: _mean([response.empty for response in answers.responses[name]]) for name in MODELS},
        "unfinished_share": {
            name: _mean([response.unfinished for response in answers.responses[name]]) for name in MODELS
        },
        "unfinished_increase": _unfinished_increase(request, answers.responses),
        "diversity": {name: _diversity(answers.responses[name]) for name in MODELS},
        "violations": violation_shares(answers.responses, request.constraints)
        | _principle_violations(request, comparison)
        | judged_violations(
            answers.responses,
            [messages for _, messages in held_out.prompts],
            held_out.columns,
            request.constraints,
            scratch=context.scratch,
        ),
        **_function_means(request, comparison),
        **_implicit_reward(request),
        "invalid_share": comparison.invalid_share,
        "judge_health": health.model_dump(mode="json"),
    }
    write_json(out / "evaluation.json", content)
    write_table(out / "samples.parquet", _samples(held_out, answers, comparison).head(request.evaluation.num_samples))
    evaluation_plots(
        out,
        rewards={} if rewards is None else {name: _known(rewards[name]) for name in MODELS},
        lengths=lengths,
        outcomes_vs_champion=_known(comparison.outcomes["champion"]),
        outcomes_vs_start=_known(comparison.outcomes["start"]),
    )


def _held_out(request: EvaluateRequest) -> HeldOut:
    table = read_table(request.held_out).head(request.num_held_out)
    chat = load_chat(request.start, request.limits)
    prompts = [(name, parse_messages(text)) for name, text in zip(table["prompt_id"], table["messages"], strict=True)]
    encoded = [chat.prompt_ids(messages) for _, messages in prompts]
    limit = request.limits.max_prompt_tokens
    short = [row for row, ids in enumerate(encoded) if len(ids) <= limit]
    if not short:
        shortest = min(map(len, encoded))
        long = {f"longer than policy.max_prompt_tokens = {limit} (the shortest has {shortest} tokens)": len(prompts)}
        raise ValueError(
            too_little(
                f"all {len(prompts)} held-out prompts are longer than policy.max_prompt_tokens = {limit}",
                [step(len(prompts), "held-out prompts", counted(long, {}))],
                otherwise="raise policy.max_prompt_tokens",
            )
        )
    skipped = len(prompts) - len(short)
    if skipped:
        log.warning(
            "left out %d of %d held-out prompts that are longer than policy.max_prompt_tokens = %d",
            skipped,
            len(prompts),
            limit,
        )
    columns = columns_of_table(table)
    return HeldOut(
        [prompts[row] for row in short], [columns[row] for row in short], [encoded[row] for row in short], skipped
    )


def _compare(request: EvaluateRequest, held_out: HeldOut, answers: Answers, judge: Judge) -> HeldOutComparison:
    """Judge the responses; if champion and start are the same model, it is judged once and counts for both."""
    same = request.champion.digest == request.start.digest
    judged = [name for name in MODELS if not (same and name == "start")]
    responses = {name: answers.responses[name] for name in judged}
    comparison = compare(
        judge,
        held_out.prompts,
        {name: [response.text for response in of_model] for name, of_model in responses.items()},
        prompt_ids=held_out.token_ids,
        tokens={
            name: [SampledTokens(tuple(each.token_ids), each.finish_reason, None) for each in of_model]
            for name, of_model in responses.items()
        },
        columns=held_out.columns,
    )
    if not same:
        return comparison
    outcomes, rewards = comparison.outcomes, comparison.rewards
    return replace(
        comparison,
        outcomes=outcomes | {"start": outcomes["champion"]},
        rewards=None if rewards is None else rewards | {"start": rewards["champion"]},
    )


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


def _win_rates(request: EvaluateRequest, comparison: HeldOutComparison) -> dict[str, Any]:
    settings = request.evaluation
    rates = {}
    for opponent in ("champion", "start"):
        name = f"win_rate_vs_{opponent}"
        known = _known(comparison.outcomes[opponent])
        seed = derive_seed(request.seed, "win_rate")
        rates[name] = win_rate(
            known, confidence=settings.confidence, resamples=settings.bootstrap_resamples, seed=seed
        ).model_dump()
        if len(known) < len(comparison.outcomes[opponent]):
            log.warning(
                "%d comparisons with the %s have no verdict", len(comparison.outcomes[opponent]) - len(known), opponent
            )
    return rates


def _divergence(request: EvaluateRequest, log_ratios: Sequence[float]) -> dict[str, Any]:
    """Estimate KL(challenger || start) per response on the challenger's own samples, at the sampling temperature."""
    settings = request.evaluation
    seed = derive_seed(request.seed, "kl_to_start")
    interval: Interval = mean_interval(
        log_ratios, confidence=settings.confidence, resamples=settings.bootstrap_resamples, seed=seed
    )
    return {"kl_to_start": interval.value, "kl_to_start_interval": interval.model_dump()}


def _unfinished_increase(request: EvaluateRequest, responses: Mapping[str, Sequence[Response]]) -> dict[str, Any]:
    """Return by how much more of the challenger's responses than of the champion's are empty or cut, as an interval."""
    unusable = {
        name: [response.empty or response.unfinished for response in responses[name]]
        for name in ("challenger", "champion")
    }
    settings, seed = request.evaluation, derive_seed(request.seed, "unfinished_increase")
    return share_change(
        unusable["challenger"],
        unusable["champion"],
        confidence=settings.confidence,
        resamples=settings.bootstrap_resamples,
        seed=seed,
    ).model_dump()


def _diversity(responses: Sequence[Response]) -> dict[str, float | None]:
    rows = [response.answer_ids for response in responses]
    return {f"distinct_{n}": distinct(rows, n) for n in (1, 2)}


def _implicit_reward(request: EvaluateRequest) -> dict[str, float | None]:
    """Return how well the trained policy's implicit reward orders the pairs of the evaluation split.

    The values are None if the split is empty.
    """
    pairs = read_json(request.training.path)["eval"]
    names = {"reward_accuracy": "rewards/accuracies", "reward_margin": "rewards/margins"}
    return {name: None if pairs is None else pairs[key] for name, key in names.items()}


def _samples(held_out: HeldOut, answers: Answers, comparison: HeldOutComparison) -> pd.DataFrame:
    unscored: list[float | None] = [None] * len(held_out.prompts)
    rewards = comparison.rewards or {}
    words = {
        "prompt_id": [prompt_id for prompt_id, _ in held_out.prompts],
        "prompt": [_asked(messages) for _, messages in held_out.prompts],
        **{name: [response.text for response in answers.responses[name]] for name in MODELS},
    }
    numbers = {f"reward_{name}": rewards.get(name, unscored) for name in MODELS}
    numbers |= {f"outcome_vs_{opponent}": comparison.outcomes[opponent] for opponent in ("champion", "start")}
    return pd.concat([pd.DataFrame(words, dtype="str"), pd.DataFrame(numbers, dtype="float64")], axis=1)


def _asked(messages: Messages) -> str:
    """Return what is asked last: the user's message, with the calls and results of tools that follow it."""
    last = max((place for place, message in enumerate(messages) if message["role"] == "user"), default=0)
    content: str = messages[-1]["content"]
    return content if last == len(messages) - 1 else as_text(messages[last:])


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
