"""Samples several responses per prompt from a causal language model, with one prefill per prompt.

Owns its decoding loop, so that the arguments alone determine the law of the samples: the model's generation config has
no influence. Every response draws its tokens from its own seeded stream; how prompts are batched changes nothing but
float noise. Knows token ids only: no text, no files, no stage.
"""

import logging
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch

from components.generation.cache import plan_compaction
from components.generation.paths import sampling_path
from components.generation.plain import decode_one_by_one, decode_plainly
from components.generation.prefill import prefill
from components.generation.sampling_params import NOT_FINITE, Ending, SamplingParams, sample_tokens
from components.generation.steady import Decode, decode_steadily
from components.models.adapters import num_virtual_tokens
from components.models.rotary import longest_context
from components.runtime.ranks import world_size

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MOST_ROWS = {"cpu": 256, "cuda": 4096}
"""Responses decoded together; with more, a device gains nothing and progress is reported too rarely."""
ROW_WIDTHS = 2**18
"""Rows times hidden size up to which a CPU gains from more rows than that: in a narrow model the overhead of a call
exceeds its work."""

log = logging.getLogger(__name__)


class Sampled(NamedTuple):
    """One response: its prompt and sample, its tokens, and why it ended.

    The tokens include the stop token, or those of a stop string.
    """

    prompt_index: int
    sample_index: int
    token_ids: list[int]
    finish_reason: Literal["stop", "length"]


def sample(
    model: "PreTrainedModel",
    prompts: Sequence[list[int]],
    *,
    seeds: Sequence[Sequence[int]],
    law: SamplingParams,
    pad_id: int,
    batch_size: int,
    on_batch: Callable[[Sequence[Sampled]], None],
) -> list[Sampled]:
    """Sample responses to every prompt.

    Args:
        model: Causal language model (or a peft wrapper of one) in evaluation mode.
        prompts: Token ids of each prompt; none empty.
        seeds: One seed per response, (num_prompts, num_samples), in [0, 2**31); equal seeds give equal uniform numbers.
        law: The distribution of tokens, and the end of a response.
        pad_id: Token that fills the left of shorter prompts; it is masked, so any valid id works.
        batch_size: Prompts that are decoded together; 0 takes as many as memory allows and this device gains from.
        on_batch: Called with the responses of each batch when it ends.

    Returns:
        One response per seed, ordered by prompt, then sample.

    Raises:
        ValueError: A prompt and its response exceed the model's context.
        RuntimeError: The model's logits are not finite.
    """
    longest = max((len(prompt) for prompt in prompts), default=0) + law.max_new_tokens
    _check_context(model, longest)
    decode = _decoder(model)
    most_samples = max((len(own_seeds) for own_seeds in seeds), default=1)
    size = batch_size or max(1, _rows_that_fit(model, longest) // most_samples)
    responses: list[Sampled] = []
    waiting = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    while waiting:
        members = waiting[:size]
        rows = [(index, number, seed) for index in members for number, seed in enumerate(seeds[index])]
        uniforms = np.stack([_uniforms(seed, law.max_new_tokens) for _, _, seed in rows])
        try:
            with torch.inference_mode():
                endings = decode_steadily(decode, model, [prompts[index] for index in members], uniforms, law, pad_id)
        except torch.OutOfMemoryError:
            if len(members) == 1:
                raise
            size = len(members) // 2
            log.warning(
                "not enough memory for the responses to %d prompts at once: continuing with %d", len(members), size
            )
            continue
        waiting = waiting[size:]
        batch = [Sampled(index, number, *ending) for (index, number, _), ending in zip(rows, endings, strict=True)]
        responses += batch
        on_batch(batch)
    return sorted(responses, key=lambda response: response[:2])


def _decoder(model: Any) -> Decode:
    path = sampling_path(model)
    if path.cache is not None:
        return _decode
    return decode_plainly if path.way == "transformers' loop" else decode_one_by_one


def _decode(
    model: "PreTrainedModel", prompts: list[list[int]], uniforms: np.ndarray, law: SamplingParams, pad_id: int
) -> list[Ending]:
    """Decode one batch; `uniforms` is (rows, max_new_tokens), with the rows of a prompt adjacent."""
    cache = sampling_path(model).cache
    assert cache is not None
    samples = len(uniforms) // len(prompts)
    prefilled = prefill(model, prompts, pad_id)
    state = cache(prefilled, samples=samples, room=law.max_new_tokens)
    logits = prefilled.logits.repeat_interleave(samples, dim=0)
    positions = prefilled.mask.sum(dim=1, keepdim=True).repeat_interleave(samples, dim=0)
    draws = torch.from_numpy(uniforms).to(model.device)
    tokens: list[list[int]] = [[] for _ in uniforms]
    stopped = [False] * len(tokens)
    rows = torch.arange(len(tokens), device=model.device)
    for step in range(law.max_new_tokens):
        picked = sample_tokens(logits, draws[:, step], law)
        live, drawn = torch.stack([rows, picked]).tolist()  # the step's only wait for the device
        for row, token in zip(live, drawn, strict=True):
            if token < 0:
                raise RuntimeError(NOT_FINITE)
            tokens[row].append(token)
            stopped[row] = law.ended(tokens[row])
        running = [not stopped[row] for row in live]
        if not any(running) or step + 1 == law.max_new_tokens:
            break
        if not all(running):
            compaction = plan_compaction(running, model.device)
            state.compact(compaction)
            rows, positions, draws, picked = (compaction.apply(tensor) for tensor in (rows, positions, draws, picked))
        logits = state.step(picked, positions + step)
    return [(ids, "stop" if ended else "length") for ids, ended in zip(tokens, stopped, strict=True)]


def _rows_that_fit(model: Any, longest: int) -> int:
    """Return how many responses of at most `longest` tokens, prompt included, are decoded together by default."""
    config, on_gpu = model.config.get_text_config(), model.device.type == "cuda"
    heads = getattr(config, "num_attention_heads", 1)
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    states = 2 * config.num_hidden_layers * (getattr(config, "num_key_value_heads", None) or heads) * head_size
    # Beside keys and values: logits, probabilities and their sums, at most 24 bytes per token of the vocabulary.
    needed = longest * states * (model.dtype.itemsize if on_gpu else 4) + 24 * config.vocab_size
    memory = (
        torch.cuda.mem_get_info(model.device)[0] if on_gpu else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    )
    share = 0.8 if on_gpu else 0.25 / world_size()
    most = MOST_ROWS["cuda"] if on_gpu else max(MOST_ROWS["cpu"], ROW_WIDTHS // config.hidden_size)
    return int(min(share * memory / needed, most))


def _uniforms(seed: int, count: int) -> np.ndarray:
    """Return the first `count` numbers of a seed's stream, float64 in [0, 1); a larger count continues the stream."""
    return np.random.Generator(np.random.Philox(key=seed)).random(count)


def _check_context(model: "PreTrainedModel", needed: int) -> None:
    context = longest_context(model)
    virtual = num_virtual_tokens(model)
    if context is not None and needed + virtual > context:
        parts = f"the longest prompt, {virtual} virtual tokens and" if virtual else "the longest prompt and"
        raise ValueError(
            f"{parts} max_response_tokens need {needed + virtual} positions, but the model has {context}: "
            "lower max_response_tokens"
        )
