"""Sampled responses as text. Shared by generation and evaluation; knows no files and no judge."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from components.generation.engines import Draw
from components.generation.sampler import Sampled
from components.generation.sampling_params import SamplingParams
from components.generation.stop_strings import StopStrings
from components.models.tokens import ChatTokenizer
from components.runtime.ranks import over_ranks


@dataclass(frozen=True)
class Response:
    """One sampled response."""

    text: str
    """The text of the tokens without the stop token."""
    token_ids: list[int]
    """The sampled tokens, including the stop token; a stop string has none, and nothing stands in its place."""
    finish_reason: Literal["stop", "length"]
    stopped_by_text: bool = False
    """Whether a stop string ended it, and no stop token."""

    @property
    def answer_ids(self) -> list[int]:
        """The sampled tokens without the stop token."""
        by_token = self.finish_reason == "stop" and not self.stopped_by_text
        return self.token_ids[:-1] if by_token else self.token_ids

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
    chat: ChatTokenizer,
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
        return _as_text(draw(own, seeds=own_seeds, law=law, on_batch=on_batch), chat, law, len(own))

    return over_ranks([len(prompt) for prompt in prompts], work)


def stop_strings(chat: ChatTokenizer, strings: Sequence[str]) -> StopStrings | None:
    """Return the texts that end a response as the law of the samples takes them."""
    return StopStrings(strings, chat.text) if strings else None


def _as_text(
    sampled: Sequence[Sampled], chat: ChatTokenizer, law: SamplingParams, num_prompts: int
) -> list[list[Response]]:
    responses: list[list[Response]] = [[] for _ in range(num_prompts)]
    for answer in sampled:
        responses[answer.prompt_index].append(_response(answer, chat, law))
    return responses


def _response(answer: Sampled, chat: ChatTokenizer, law: SamplingParams) -> Response:
    ids = answer.token_ids[:-1] if answer.token_ids[-1] in law.stop_ids else answer.token_ids
    kept = None if law.stops is None else law.stops.cut(ids)
    if kept is not None:
        return Response(chat.text(kept), kept, "stop", stopped_by_text=True)
    # vLLM reads the text in the prompt's context, so it may see a stop string that the answer alone does not show.
    by_text = answer.finish_reason == "stop" and len(ids) == len(answer.token_ids)
    return Response(chat.text(ids), answer.token_ids, answer.finish_reason, stopped_by_text=by_text)
