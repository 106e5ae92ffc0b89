"""The door of best-of-n: n answers of the start model, of which the judge picks one, beside one more answer of it.

What training must beat: it reaches the judge's taste without changing a weight, and pays n answers for each that is
served (Stiennon et al. 2020, arXiv 2009.01325).
"""

import math
from collections.abc import Sequence
from pathlib import Path

from components.artifacts import derive_seed, read_table, write_json
from components.best_of_n import RESULT
from components.config import PreferencesConfig
from components.evaluation.held_out import HeldOut, chosen, gate_ids, tags_of
from components.evaluation.measurements import known_only, mean
from components.evaluation.outcomes import MAX_UNJUDGED_SHARE, HeldOutComparison, compare
from components.generation.engines import opened
from components.generation.responses import Response, respond, stop_strings
from components.generation.sampler import Sampled
from components.generation.sampling_params import SamplingParams
from components.judges.chat.ledger import write_usage
from components.judges.protocol import JUDGING, Group, JudgeContext, SampledTokens
from components.judges.registry import load_pinned_judge
from components.models.tokens import load_chat
from components.preferences.candidates import judged_prompts
from components.records import BestOfNRequest, JudgeUnavailable
from components.runtime import progress
from components.runtime.ranks import pick_own_device, rank, world_size
from components.statistics.intervals import win_rate


def run(request: BestOfNRequest, out: Path) -> None:
    """Write `best_of_n.json`: what the picked answers reach against the start model's own.

    Ranks share the sampling; rank 0 judges and writes.

    Raises:
        JudgeUnavailable: Too many answers have no verdict.
        ValueError: No held-out prompt is short enough, or the model or a judge cannot be used.
    """
    pick_own_device()
    held_out = _held_out(request)
    sampled = _sample(request, held_out)
    if rank() != 0:
        return
    context = JudgeContext(
        out.parent / JUDGING / out.name, policy=request.start, start=request.start, limits=request.limits
    )
    offered, own = [of_prompt[:-1] for of_prompt in sampled], [of_prompt[-1] for of_prompt in sampled]
    picked = _pick(request, held_out, offered, context)
    comparison = compare(
        load_pinned_judge(request.evaluation_judge, context),
        held_out.prompts,
        {"challenger": [each.text for each in picked], "start": [each.text for each in own]},
        prompt_ids=held_out.token_ids,
        tokens={"challenger": [_tokens(each) for each in picked], "start": [_tokens(each) for each in own]},
        columns=held_out.columns,
    )
    settings = request.evaluation
    rate = win_rate(
        known_only(comparison.outcomes["start"]),
        confidence=settings.confidence,
        resamples=settings.bootstrap_resamples,
        seed=derive_seed(request.seed, "bootstrap"),
    )
    write_usage(out, context.scratch)
    write_json(
        out / RESULT,
        {
            "num_prompts": len(held_out.prompts),
            "num_samples": request.num_samples,
            "win_rate_vs_start": rate.model_dump(),
            "mean_reward": _mean_rewards(comparison),
            "kl_to_start": largest_kl(request.num_samples),
            "mean_tokens": {"challenger": _mean_tokens(picked), "start": _mean_tokens(own)},
        },
    )


def largest_kl(num_samples: int) -> float:
    """Return the KL of best-of-n to its model in nats, which it has at most (Beirami et al. 2024, arXiv 2401.01879)."""
    return math.log(num_samples) - (num_samples - 1) / num_samples


def _held_out(request: BestOfNRequest) -> HeldOut:
    """Return the prompts that the first round of a campaign with this seed is evaluated on."""
    table = read_table(request.held_out)
    names, _ = gate_ids(
        tags_of(table, request.tag_column),
        round=1,
        size=request.num_held_out,
        audit_share=request.audit_share,
        seed=request.campaign_seed,
    )
    chat = load_chat(request.start, request.limits)
    return chosen(table, names, chat, max_prompt_tokens=request.limits.max_prompt_tokens)


def _sample(request: BestOfNRequest, held_out: HeldOut) -> list[list[Response]]:
    """Return `num_samples` answers to each prompt, and one more that they are compared with."""
    chat, settings = load_chat(request.start, request.limits), request.evaluation
    law = SamplingParams(
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        max_new_tokens=request.limits.max_response_tokens,
        stop_ids=chat.stop_ids,
        stops=stop_strings(chat, request.stop),
    )
    number = request.num_samples + 1
    seeds = [[derive_seed(request.seed, name, sample) for sample in range(number)] for name, _ in held_out.prompts]
    finished, total = 0, number * len(held_out.prompts)

    def report(batch: Sequence[Sampled]) -> None:
        nonlocal finished
        finished += world_size() * len(batch)
        progress.report(min(finished, total), total, "held-out responses")

    with opened(
        request.start,
        request.limits,
        engine=request.engine,
        longest=max(map(len, held_out.token_ids)) + request.limits.max_response_tokens,
        pad_id=chat.pad_id,
        batch_size=request.batch_size,
        reads_text=bool(request.stop),
        tensor_parallel_size=request.tensor_parallel_size,
    ) as policy:
        return respond(policy.draw, chat, held_out.token_ids, seeds=seeds, law=law, on_batch=report)


def _pick(
    request: BestOfNRequest, held_out: HeldOut, offered: list[list[Response]], context: JudgeContext
) -> list[Response]:
    """Return the answer of each prompt that the judge likes best, the first of equals.

    A prompt whose answers have no valid verdict keeps its first answer, as an endpoint would.

    Raises:
        JudgeUnavailable: More than `MAX_UNJUDGED_SHARE` of the prompts have none.
    """
    groups = [
        Group(
            name,
            messages,
            tuple((number, each.text) for number, each in enumerate(responses)),
            prompt_ids=tuple(held_out.token_ids[row]),
            tokens={number: _tokens(each) for number, each in enumerate(responses)},
            columns=held_out.columns[row] if held_out.columns else {},
        )
        for row, ((name, messages), responses) in enumerate(zip(held_out.prompts, offered, strict=True))
    ]
    judge = load_pinned_judge(request.judge, context)
    verdicts = judge.judge(groups)
    prompts = judged_prompts(groups, verdicts, PreferencesConfig())
    unjudged = sum(not prompt.answers for prompt in prompts)
    if unjudged > MAX_UNJUDGED_SHARE * len(prompts):
        why = next((verdict.detail for verdict in verdicts if verdict.status == "invalid"), "it said nothing of them")
        raise JudgeUnavailable(
            f"judge {judge.name} has no verdict on any answer to {unjudged} of {len(prompts)} prompts, such as: {why}"
        )
    picked = []
    for prompt, responses in zip(prompts, offered, strict=True):
        best = max(prompt.answers, key=lambda answer: (answer.score, -answer.sample_id), default=None)
        picked.append(responses[best.sample_id if best is not None else 0])
    return picked


def _mean_rewards(comparison: HeldOutComparison) -> dict[str, float] | None:
    """Return the mean score by model; None for a judge that compares."""
    rewards = comparison.rewards
    return None if rewards is None else {name: mean(known_only(values)) for name, values in rewards.items()}


def _tokens(response: Response) -> SampledTokens:
    return SampledTokens(tuple(response.token_ids), response.finish_reason, None)


def _mean_tokens(responses: list[Response]) -> float:
    return mean([len(response.token_ids) for response in responses])
