"""Decoding by transformers' own loop, for models that do not fit the sampler's cache or padding.

It is slower, and exact for all models. Prompts of the same length are decoded together, so that none is padded; the
model, or peft, prepares its own inputs.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from components.generation.sampling_params import NOT_FINITE, Ending, SamplingParams, sample_tokens
from components.models.adapters import unwrapped

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def decode_plainly(
    model: "PreTrainedModel", prompts: list[list[int]], uniforms: np.ndarray, law: SamplingParams, pad_id: int
) -> list[Ending]:
    """Decode one batch.

    Args:
        model: Causal language model, or a peft wrapper of one.
        prompts: Token ids.
        uniforms: (rows, max_new_tokens), with the rows of a prompt adjacent.
        law: The distribution of tokens, and the end of a response.
        pad_id: Token that fills the right of a response that ended before others.
    """
    samples = len(uniforms) // len(prompts)
    endings: list[Ending] = [([], "length")] * len(uniforms)
    for length in {len(prompt) for prompt in prompts}:
        rows = [
            index * samples + number
            for index, prompt in enumerate(prompts)
            if len(prompt) == length
            for number in range(samples)
        ]
        ids = torch.tensor([prompts[row // samples] for row in rows], device=model.device)
        draws = torch.from_numpy(uniforms[rows]).to(model.device)
        for row, tokens in zip(rows, _generate(model, ids, draws, law, pad_id), strict=True):
            endings[row] = _ending(tokens, law)
    return endings


def _generate(
    model: "PreTrainedModel", ids: torch.Tensor, draws: torch.Tensor, law: SamplingParams, pad_id: int
) -> list[list[int]]:
    from transformers import GenerationConfig, LogitsProcessorList

    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=law.max_new_tokens,
        eos_token_id=sorted(law.stop_ids) or None,
        pad_token_id=pad_id,
    )
    with _without_own_generation_config(model), warnings.catch_warnings():
        # Without padding, peft's own positions are the same.
        warnings.filterwarnings("ignore", message="Position ids are not supported")
        generated: Any = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=settings,
            logits_processor=LogitsProcessorList([_Drawn(draws, law, ids.shape[1])]),
        )
    rows: list[list[int]] = generated[:, ids.shape[1] :].tolist()
    return rows


class _Drawn:
    """Masks all tokens except the one that the law draws, so that transformers' greedy choice takes it."""

    def __init__(self, draws: torch.Tensor, law: SamplingParams, prompt_length: int) -> None:
        self.draws, self.law, self.prompt_length = draws, law, prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        picked = sample_tokens(scores, self.draws[:, input_ids.shape[1] - self.prompt_length], self.law)
        if bool((picked < 0).any()):
            raise RuntimeError(NOT_FINITE)
        return torch.full_like(scores, -torch.inf).scatter_(1, picked.unsqueeze(1), 0.0)


@contextmanager
def _without_own_generation_config(model: Any) -> Iterator[None]:
    # transformers takes settings that are not set here from the model's own config: a repetition penalty, say.
    from transformers import GenerationConfig

    base = unwrapped(model)
    configs = {owner: owner.generation_config for owner in {model, base}}
    for owner in configs:
        owner.generation_config = GenerationConfig()
    try:
        yield
    finally:
        for owner, config in configs.items():
            owner.generation_config = config


def _ending(tokens: list[int], law: SamplingParams) -> Ending:
    for place, token in enumerate(tokens):
        if token in law.stop_ids:
            return tokens[: place + 1], "stop"
    return tokens, "length"
