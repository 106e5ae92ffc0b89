"""The three models' responses to the held-out prompts, and the challenger's log-ratios to the start.

Holds one model in memory at a time. Knows no judge and no files but the models.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from components.artifacts import derive_seed
from components.generation.engines import Sampler, opened
from components.generation.responses import Response, respond, stop_strings
from components.generation.sampler import Sampled
from components.generation.sampling_params import SamplingParams
from components.models.loading import give_memory_back, load_policy, pick_device, resolve_dtype
from components.models.tokens import ChatTokenizer, load_chat
from components.records import EvaluateRequest, ModelRef
from components.runtime import progress
from components.runtime.ranks import over_ranks, world_size
from components.scoring.response_logps import response_logps

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Answers:
    """The responses of each model; those to one prompt follow each other."""

    responses: dict[str, list[Response]]
    """By model: `challenger`, `champion`, `start`."""
    log_ratios: list[float]
    """Per response of the challenger, log p_challenger(y) - log p_start(y), in nats; its mean is the KL.

    p is the whole distribution at the evaluation's temperature, and so is the law of y. The start's law truncated by
    top-p or top-k may give the challenger's tokens no probability, and the KL would be infinite; and no weights turn
    samples of a truncated law into those of the whole one, since tokens that are cut off are never sampled.
    """


def answer(request: EvaluateRequest, prompts: Sequence[list[int]], seeds: Sequence[int]) -> Answers:
    """Sample `samples_per_prompt` responses from each model, and score the challenger's under challenger and start.

    If top-p or top-k truncates the law of the responses, those that are scored are others, of the whole law and of the
    same seeds: they are the responses of an evaluation that truncates nothing.

    Models with equal digests are one model: it is loaded once, and its responses serve under each of its names.
    Different models draw independently, so a win rate estimates the chance that a response of one beats a response of
    the other. (Common random numbers measure something else and are biased upwards: after one round on the built-in
    world 0.848 against 0.824, means over 14 seeds, difference 0.024 with a standard error of 0.004.)

    Args:
        request: The models, limits and law of the responses.
        prompts: Token ids of each prompt.
        seeds: One per prompt; a model's draws derive from it and the model's digest.
    """
    samples = request.evaluation.samples_per_prompt
    rows = [prompt for prompt in prompts for _ in range(samples)]
    named = {"challenger": request.challenger, "champion": request.champion, "start": request.start}
    models = {ref.digest: ref for ref in named.values()}  # the challenger first: the start scores its responses
    responses: dict[str, list[Response]] = {}
    scored: list[list[int]] = []
    logps: dict[str, torch.Tensor] = {}
    settings = request.evaluation
    is_truncated = settings.top_p < 1.0 or settings.top_k > 0
    total = (len(models) + is_truncated) * len(rows)
    for digest, ref in models.items():
        chat = load_chat(ref, request.limits)
        done = (len(responses) + bool(responses and is_truncated)) * len(rows), total
        own_seeds = [_seeds(seed, digest, samples) for seed in seeds]
        with opened(
            ref,
            request.limits,
            engine=request.engine,
            longest=max(map(len, prompts)) + request.limits.max_response_tokens,
            pad_id=chat.pad_id,
            batch_size=request.batch_size,
            reads_text=bool(request.stop),
            tensor_parallel_size=request.tensor_parallel_size,
        ) as policy:
            sampled = partial(_sample, policy, chat, prompts, own_seeds)
            law = _law(request, chat)
            responses[digest] = sampled(law=law, done=done)
            if digest == request.challenger.digest:
                whole = law._replace(top_p=1.0, top_k=0)
                own = sampled(law=whole, done=(len(rows), total)) if is_truncated else responses[digest]
                scored = [response.token_ids for response in own]
            model = policy.model
        del policy, sampled
        if digest in (request.challenger.digest, request.start.digest):
            model = model or _loaded(request, ref)
            logps[digest] = _logps(model, chat.pad_id, rows, scored, temperature=settings.temperature)
        del model
        give_memory_back()
    log_ratios = (logps[request.challenger.digest] - logps[request.start.digest]).tolist()
    return Answers({name: responses[ref.digest] for name, ref in named.items()}, log_ratios)


def _seeds(seed: int, digest: str, samples: int) -> list[int]:
    """Return the seeds of a model's responses to a prompt."""
    return [derive_seed(seed, digest), *(derive_seed(seed, digest, sample) for sample in range(1, samples))]


def _loaded(request: EvaluateRequest, ref: ModelRef) -> "PreTrainedModel":
    return load_policy(
        ref, dtype=resolve_dtype(request.limits.dtype), device=pick_device(), quantization=request.limits.quantization
    )


def _logps(
    model: "PreTrainedModel",
    pad_id: int,
    prompts: Sequence[list[int]],
    answers: Sequence[list[int]],
    *,
    temperature: float,
) -> torch.Tensor:
    """Return the log-probability of each answer at the sampling temperature, float64; ranks share the answers.

    An answer that a stop string ended before its first token has no tokens, so its log-probability is 0.
    """

    def work(share: list[int]) -> list[float]:
        scored = [place for place in share if answers[place]]
        own, own_answers = ([rows[place] for place in scored] for rows in (prompts, answers))
        logps = dict.fromkeys(share, 0.0)
        if scored:
            values = response_logps(
                model, pad_id, own, own_answers, temperature=temperature, counted_as="held-out responses scored"
            )
            logps |= dict(zip(scored, values.tolist(), strict=True))
        return [logps[place] for place in share]

    lengths = [len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)]
    return torch.tensor(over_ranks(lengths, work), dtype=torch.float64)


def _law(request: EvaluateRequest, chat: ChatTokenizer) -> SamplingParams:
    """Return the law of the compared responses."""
    return SamplingParams(
        temperature=request.evaluation.temperature,
        top_p=request.evaluation.top_p,
        top_k=request.evaluation.top_k,
        max_new_tokens=request.limits.max_response_tokens,
        stop_ids=chat.stop_ids,
        stops=stop_strings(chat, request.stop),
    )


def _sample(
    policy: Sampler,
    chat: ChatTokenizer,
    prompts: Sequence[list[int]],
    seeds: Sequence[Sequence[int]],
    *,
    law: SamplingParams,
    done: tuple[int, int],
) -> list[Response]:
    """Sample a response per seed; `done` is the number of responses so far and in all."""
    finished, total = done

    def report(batch: Sequence[Sampled]) -> None:
        nonlocal finished
        finished += world_size() * len(batch)
        progress.report(min(finished, total), total, "held-out responses")

    by_prompt = respond(policy.draw, chat, prompts, seeds=seeds, law=law, on_batch=report)
    return [response for responses in by_prompt for response in responses]
