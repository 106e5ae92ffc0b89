"""Samples several responses a prompt from a causal language model, with one prefill a prompt.

Owns its decoding loop, so that the law of the samples is what the arguments say: no generation config of the model has a part in it.
Every response draws its tokens from its own seeded stream; how prompts are batched changes nothing but float noise. Knows token ids
only: no text, no files, no stage.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch

from components.generation.cache import fork
from components.records import StageFailed

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel

COMPACT_BELOW = 0.75
"""Finished rows are dropped once no more than this share of the rows still runs: dropping copies the cache, as a step does."""


class Sampled(NamedTuple):
    """One response: which prompt and sample it is, its tokens (the stop token included), and why it ended."""

    prompt_index: int
    sample_index: int
    token_ids: list[int]
    finish_reason: Literal["stop", "length"]


class Law(NamedTuple):
    """What is sampled from: the model's distribution after temperature, then top-k, then top-p, until a stop token or the limit."""

    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    stop_ids: frozenset[int]


def sample(
    model: "PreTrainedModel",
    prompts: Sequence[list[int]],
    *,
    seeds: Sequence[Sequence[int]],
    law: Law,
    pad_id: int,
    batch_size: int,
    on_batch: Callable[[Sequence[Sampled]], None],
) -> list[Sampled]:
    """Samples responses to every prompt.

    Args:
        model: Causal language model (or a peft wrapper of one) in evaluation mode.
        prompts: Token ids of each prompt; none empty.
        seeds: One seed for each prompt and sample, (num_prompts, num_samples); equal seeds see equal uniforms.
        law: What is sampled from, and when a response ends.
        pad_id: Fills the left of shorter prompts; it is masked, so any valid id will do.
        batch_size: Prompts that are prefilled and decoded together.
        on_batch: Called with the responses of each batch when it ends.

    Returns:
        One response for each prompt and sample, ordered by prompt, then sample.

    Raises:
        ValueError: A prompt and its response would not fit the model's context, or the model's cache cannot be forked.
        StageFailed: The model's logits are not finite.
    """
    _check_context(model, max((len(prompt) for prompt in prompts), default=0) + law.max_new_tokens)
    responses: list[Sampled] = []
    longest_first = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    for start in range(0, len(prompts), batch_size):
        members = longest_first[start : start + batch_size]
        rows = [(index, number, seed) for index in members for number, seed in enumerate(seeds[index])]
        uniforms = np.stack([_uniforms(seed, law.max_new_tokens) for _, _, seed in rows])
        with torch.inference_mode():
            decoded = _decode(model, [prompts[index] for index in members], uniforms, law, pad_id)
        batch = [Sampled(index, number, *ending) for (index, number, _), ending in zip(rows, decoded, strict=True)]
        responses += batch
        on_batch(batch)
    return sorted(responses, key=lambda response: response[:2])


def pick_tokens(logits: torch.Tensor, uniforms: torch.Tensor, law: Law) -> torch.Tensor:
    """Draws one token a row by inverting its cumulative distribution at a uniform number.

    Tokens tied with the last one that top-k or top-p admits are admitted too, so the law does not hang on a sort's order. Nearby
    distributions give the same token for most uniforms: models that are compared on equal seeds differ only where they disagree.

    Args:
        logits: (rows, vocabulary), any precision; the softmax is in float32 and its running sum in float64.
        uniforms: (rows,) float64 in [0, 1).
        law: Temperature, top-k and top-p.

    Returns:
        (rows,) token ids; -1 where a row's logits hold NaN or positive infinity.
    """
    scores = logits.float()
    # Subtracting the maximum first keeps the smallest temperatures finite.
    scores = (scores - scores.amax(dim=-1, keepdim=True)) / law.temperature
    if 0 < law.top_k < scores.shape[-1]:
        scores = scores.masked_fill(scores < scores.topk(law.top_k, dim=-1).values[:, -1:], -torch.inf)
    probabilities = scores.softmax(dim=-1)
    if law.top_p < 1.0:
        ranked = probabilities.sort(dim=-1, descending=True).values
        mass_before = ranked.cumsum(dim=-1, dtype=torch.float64) - ranked
        least = ranked.masked_fill(mass_before >= law.top_p, torch.inf).amin(dim=-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
    cumulative = probabilities.cumsum(dim=-1, dtype=torch.float64)
    total = cumulative[:, -1]
    # Staying below the total keeps rounding from stepping past the last token that has any probability.
    points = torch.minimum(uniforms * total, torch.nextafter(total, torch.zeros_like(total)))
    picked = torch.searchsorted(cumulative, points[:, None], right=True).squeeze(1)
    return torch.where(total.isfinite(), picked, -1)


def _decode(
    model: "PreTrainedModel", prompts: list[list[int]], uniforms: np.ndarray, law: Law, pad_id: int
) -> list[tuple[list[int], Literal["stop", "length"]]]:
    """Decodes one batch; `uniforms` is (rows, max_new_tokens), each prompt's rows next to each other."""
    device = model.device
    samples = len(uniforms) // len(prompts)
    logits, cache, mask = _prefill(model, prompts, samples, law.max_new_tokens, pad_id)
    width = mask.shape[1] - law.max_new_tokens
    padded = not bool(mask.all())
    positions = mask[:, :width].sum(dim=1, keepdim=True)
    draws = torch.from_numpy(uniforms).to(device)
    tokens: list[list[int]] = [[] for _ in uniforms]
    stopped = [False] * len(tokens)
    rows = list(range(len(tokens)))
    for step in range(law.max_new_tokens):
        picked = pick_tokens(logits, draws[:, step], law)
        for row, token in zip(rows, picked.tolist(), strict=True):  # the step's only wait for the device
            if token < 0:
                raise StageFailed("sampling: the policy's logits are not finite; load it in float32, or train with a lower learning rate")
            if not stopped[row]:
                tokens[row].append(token)
                stopped[row] = token in law.stop_ids
        running = [place for place, row in enumerate(rows) if not stopped[row]]
        if not running or step + 1 == law.max_new_tokens:
            break
        if len(running) <= COMPACT_BELOW * len(rows):
            count = len(running)
            movers = [place for place in running if place >= count]
            holes = [place for place in range(count) if stopped[rows[place]]]
            for hole, mover in zip(holes, movers, strict=True):
                rows[hole] = rows[mover]
            del rows[count:]
            H, M = torch.tensor(holes, dtype=torch.long), torch.tensor(movers, dtype=torch.long)
            for layer in cache.layers:
                layer.close_ranks(H, M, count)
            for t in (mask, positions, draws, picked):
                t[H] = t[M]
            mask, positions, draws, picked = mask[:count], positions[:count], draws[:count], picked[:count]
        output = model(
            input_ids=picked[:, None],
            attention_mask=mask[:, : width + step + 1] if padded else None,
            position_ids=positions + step,
            past_key_values=cache,
            use_cache=True,
        )
        logits = output.logits[:, -1]
    return [(ids, "stop" if ended else "length") for ids, ended in zip(tokens, stopped, strict=True)]


def _prefill(
    model: "PreTrainedModel", prompts: list[list[int]], samples: int, max_new_tokens: int, pad_id: int
) -> tuple[torch.Tensor, "Cache", torch.Tensor]:
    """Runs each prompt once, then forks it: last logits (rows, vocabulary), cache, and mask (rows, width + max_new_tokens)."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[pad_id] * (width - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor([[False] * (width - len(prompt)) + [True] * len(prompt) for prompt in prompts], device=model.device)
    output = model(
        input_ids=ids,
        # Without padding no mask is needed, which lets attention take its fast kernels.
        attention_mask=None if all(len(prompt) == width for prompt in prompts) else mask,
        position_ids=(mask.long().cumsum(dim=1) - 1).clamp(min=0),
        use_cache=True,
        logits_to_keep=1,
    )
    cache = output.past_key_values
    fork(cache, samples=samples, room=max_new_tokens)
    room = torch.ones(len(prompts), max_new_tokens, dtype=torch.bool, device=model.device)
    mask = torch.cat([mask, room], dim=1).repeat_interleave(samples, dim=0)
    return output.logits[:, -1].repeat_interleave(samples, dim=0), cache, mask


def _uniforms(seed: int, count: int) -> np.ndarray:
    """The first numbers of a seed's stream, float64 in [0, 1); a longer limit continues the same stream."""
    return np.random.Generator(np.random.Philox(key=seed)).random(count)


def _check_context(model: "PreTrainedModel", needed: int) -> None:
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and needed > context:
        raise ValueError(
            f"the longest prompt and max_response_tokens need {needed} positions and the model has {context}: lower max_response_tokens"
        )
