"""Decoding by transformers' own loop, for models that do not fit the sampler's cache or padding.

It is slower, and the model, or peft, prepares its own inputs. Prompts of the same length are decoded together, so that
none is padded, unless the model's rows depend on each other.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from components.generation.sampling_params import NOT_FINITE, Ending, SamplingParams, sample_tokens
from components.generation.stop_strings import StopStrings
from components.models.adapters import unwrapped

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Scores = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(tokens so far (rows, width), logits (rows, vocabulary)) -> logits of which the greedy choice is taken."""


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
        drawn = _Drawn(torch.from_numpy(uniforms[rows]).to(model.device), law, length)
        generated = generate(
            model,
            [prompts[row // samples] for row in rows],
            drawn,
            max_new_tokens=law.max_new_tokens,
            pad_id=pad_id,
            stop_ids=law.stop_ids,
            stops=law.stops,
        )
        for row, tokens in zip(rows, generated, strict=True):
            endings[row] = _ending(tokens, law)
    return endings


def decode_one_by_one(
    model: "PreTrainedModel", prompts: list[list[int]], uniforms: np.ndarray, law: SamplingParams, pad_id: int
) -> list[Ending]:
    """Decode one batch, each response alone; arguments as for `decode_plainly`."""
    samples = len(uniforms) // len(prompts)
    return [
        ending
        for row in range(len(uniforms))
        for ending in decode_plainly(model, [prompts[row // samples]], uniforms[row : row + 1], law, pad_id)
    ]


def generate(
    model: "PreTrainedModel",
    prompts: Sequence[Sequence[int]],
    scores: Scores,
    *,
    max_new_tokens: int,
    pad_id: int,
    stop_ids: frozenset[int] = frozenset(),
    stops: StopStrings | None = None,
) -> list[list[int]]:
    """Return the tokens that transformers' loop gives to prompts of one length, with `scores` behind the model."""
    from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

    _forget(model)
    ids = torch.tensor(prompts, device=model.device)
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(stop_ids) or None,
        pad_token_id=pad_id,
    )
    with _without_own_generation_config(model), without_warning_of_positions():
        generated: Any = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=settings,
            logits_processor=LogitsProcessorList([scores]),
            stopping_criteria=StoppingCriteriaList([] if stops is None else [_AtStopStrings(stops, ids.shape[1])]),
        )
    rows: list[list[int]] = generated[:, ids.shape[1] :].tolist()
    return rows


def _forget(model: Any) -> None:
    """Drop the states that RecurrentGemma keeps in its modules: a prompt of one token would go on from them."""
    for module in model.modules():
        for state in vars(module).keys() & {"recurrent_states", "conv1d_state"}:
            setattr(module, state, None)


class _Drawn:
    """Masks all tokens except the one that the law draws, so that transformers' greedy choice takes it."""

    def __init__(self, draws: torch.Tensor, law: SamplingParams, prompt_length: int) -> None:
        self.draws, self.law, self.prompt_length = draws, law, prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        picked = sample_tokens(scores, self.draws[:, input_ids.shape[1] - self.prompt_length], self.law)
        if bool((picked < 0).any()):
            raise RuntimeError(NOT_FINITE)
        return _only(picked, scores)


class _AtStopStrings:
    """Tells transformers' loop which responses have come to a stop string."""

    def __init__(self, stops: StopStrings, prompt_length: int) -> None:
        self.stops, self.prompt_length = stops, prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: Any, **rest: Any) -> torch.Tensor:
        rows = input_ids[:, self.prompt_length :].tolist()
        return torch.tensor([self.stops.ended(tokens) for tokens in rows], device=input_ids.device)


class Forced:
    """Takes given tokens (rows, steps), and keeps the logits of every step."""

    def __init__(self, tokens: torch.Tensor, prompt_length: int) -> None:
        self.tokens, self.prompt_length = tokens, prompt_length
        self.scores: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores whose greedy choice is the given token."""
        self.scores.append(scores)
        return _only(self.tokens[:, input_ids.shape[1] - self.prompt_length], scores)


def _only(tokens: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    return torch.full_like(scores, -torch.inf).scatter_(1, tokens.unsqueeze(1), 0.0)


@contextmanager
def without_warning_of_positions() -> Iterator[None]:
    """Silence peft's warning that it takes no positions: without padding, its own are the same."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Position ids are not supported")
        yield


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
    for length in range(1, len(tokens) + 1):
        if law.ended(tokens[:length]):
            return tokens[:length], "stop"
    return tokens, "length"
