"""Samples several responses a prompt from a causal language model, with one prefill a prompt.

Owns its decoding loop, so that the law of the samples is what the arguments say: no generation config of the model has a part in it.
Every response draws its tokens from its own seeded stream; how prompts are batched changes nothing but float noise. Knows token ids
only: no text, no files, no stage.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch

from components.generation.cache import close_ranks, fork, plan_closing

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel

Ending = tuple[list[int], Literal["stop", "length"]]


class Sampled(NamedTuple):
    """One response: which prompt and sample it is, its tokens (the stop token included), and why it ended."""

    prompt_index: int
    sample_index: int
    token_ids: list[int]
    finish_reason: Literal["stop", "length"]


class Law(NamedTuple):
    """What is sampled from: the model's distribution after temperature, then top-k, then top-p, until a stop token or the limit."""

    temperature: float
    """Divides the logits; above 0."""
    top_p: float
    """Smallest share of probability that the admitted tokens reach, in (0, 1]; 1 admits all."""
    top_k: int
    """Number of most likely tokens that are admitted; 0 admits all."""
    max_new_tokens: int
    """Longest response in tokens, at least 1."""
    stop_ids: frozenset[int]
    """Tokens that end a response."""


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
        seeds: A seed for each response, (num_prompts, num_samples), in [0, 2**31); equal seeds see equal uniform numbers.
        law: What is sampled from, and when a response ends.
        pad_id: Fills the left of shorter prompts; it is masked, so any valid id will do.
        batch_size: Prompts that are prefilled and decoded together.
        on_batch: Called with the responses of each batch when it ends.

    Returns:
        One response for each seed, ordered by prompt, then sample.

    Raises:
        ValueError: A prompt and its response would not fit the model's context, or the model's cache cannot be forked.
        RuntimeError: The model's logits are not finite.
    """
    _check_context(model, max((len(prompt) for prompt in prompts), default=0) + law.max_new_tokens)
    responses: list[Sampled] = []
    longest_first = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    for start in range(0, len(prompts), batch_size):
        members = longest_first[start : start + batch_size]
        rows = [(index, number, seed) for index in members for number, seed in enumerate(seeds[index])]
        uniforms = np.stack([_uniforms(seed, law.max_new_tokens) for _, _, seed in rows])
        with torch.inference_mode():
            endings = _decode(model, [prompts[index] for index in members], uniforms, law, pad_id)
        batch = [Sampled(index, number, *ending) for (index, number, _), ending in zip(rows, endings, strict=True)]
        responses += batch
        on_batch(batch)
    return sorted(responses, key=lambda response: response[:2])


def pick_tokens(logits: torch.Tensor, uniforms: torch.Tensor, law: Law) -> torch.Tensor:
    """Draws one token a row by inverting its cumulative distribution at a uniform number.

    Tokens tied with the last one that top-k or top-p admits are admitted too, so the law does not hang on a sort's order. At one
    uniform number, equal distributions give the same token, and close ones mostly do where few tokens have most of the probability.

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
    # A uniform below 1 times the total stays below the total in float64 too, so the token found has some probability.
    picked = torch.searchsorted(cumulative, (uniforms * total)[:, None], right=True).squeeze(1)
    return torch.where(total.isfinite(), picked, -1)


def _decode(model: "PreTrainedModel", prompts: list[list[int]], uniforms: np.ndarray, law: Law, pad_id: int) -> list[Ending]:
    """Decodes one batch; `uniforms` is (rows, max_new_tokens), the rows of a prompt next to each other."""
    logits, cache, mask = _prefill(model, prompts, samples=len(uniforms) // len(prompts), room=law.max_new_tokens, pad_id=pad_id)
    width = mask.shape[1] - law.max_new_tokens
    padded = not bool(mask.all())
    positions = mask[:, :width].sum(dim=1, keepdim=True)
    draws = torch.from_numpy(uniforms).to(model.device)
    tokens: list[list[int]] = [[] for _ in uniforms]
    stopped = [False] * len(tokens)
    rows = torch.arange(len(tokens), device=model.device)
    for step in range(law.max_new_tokens):
        picked = pick_tokens(logits, draws[:, step], law)
        live, drawn = torch.stack([rows, picked]).tolist()  # the step's only wait for the device
        for row, token in zip(live, drawn, strict=True):
            if token < 0:
                raise RuntimeError("the policy's logits are not finite: set policy.dtype to float32, or lower training.learning_rate")
            tokens[row].append(token)
            stopped[row] = token in law.stop_ids
        running = [not stopped[row] for row in live]
        if not any(running) or step + 1 == law.max_new_tokens:
            break
        if not all(running):
            closing = plan_closing(running, model.device)
            close_ranks(cache, closing)
            rows, mask, positions, draws, picked = (closing.apply(tensor) for tensor in (rows, mask, positions, draws, picked))
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
    model: "PreTrainedModel", prompts: list[list[int]], *, samples: int, room: int, pad_id: int
) -> tuple[torch.Tensor, "Cache", torch.Tensor]:
    """Runs each prompt once, then forks it: last logits (rows, vocabulary), cache, and mask (rows, width + room)."""
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
    cache = fork(getattr(output, "past_key_values", None), samples=samples, room=room)
    mask = torch.cat([mask, mask.new_ones(len(prompts), room)], dim=1).repeat_interleave(samples, dim=0)
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
