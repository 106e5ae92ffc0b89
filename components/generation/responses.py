"""Sampled responses as text. Shared by generation and evaluation; knows no files and no judge."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from components.generation.engines import Draw
from components.generation.sampler import Sampled
from components.generation.sampling_params import SamplingParams
from components.runtime.ranks import over_ranks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Response:
    """One sampled response."""

    text: str
    """The text without special tokens."""
    token_ids: list[int]
    """The sampled tokens, including the stop token."""
    finish_reason: Literal["stop", "length"]

    @property
    def empty(self) -> bool:
        """Whether the text is empty or only white space."""
        return not self.text.strip()

    @property
    def unfinished(self) -> bool:
        """Whether the limit cut a text that is not empty; no response is both empty and unfinished."""
        return self.finish_reason == "length" and not self.empty


def respond(
    draw: Draw,
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[list[int]],
    *,
    seeds: Sequence[Sequence[int]],
    law: SamplingParams,
    on_batch: Callable[[Sequence[Sampled]], None],
) -> list[list[Response]]:
    """Sample responses to every prompt; arguments and errors as for `sampler.sample`.

    Each rank samples a share of the prompts.

    Returns:
        For each prompt, one response per seed; the same on every rank.
    """

    def work(share: list[int]) -> list[list[Response]]:
        own = [prompts[place] for place in share]
        own_seeds = [seeds[place] for place in share]
        return _as_text(draw(own, seeds=own_seeds, law=law, on_batch=on_batch), tokenizer, len(own))

    return over_ranks([len(prompt) for prompt in prompts], work)


def _as_text(
    sampled: Sequence[Sampled], tokenizer: "PreTrainedTokenizerBase", num_prompts: int
) -> list[list[Response]]:
    responses: list[list[Response]] = [[] for _ in range(num_prompts)]
    for answer in sampled:
        ids = answer.token_ids[:-1] if answer.finish_reason == "stop" else answer.token_ids
        # Cleaning up spaces would make a text that the policy did not write.
        text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        responses[answer.prompt_index].append(Response(text, answer.token_ids, answer.finish_reason))
    return responses
