"""How the start model answers a few held-out prompts: whether the length limit cuts it, before hours are spent."""

import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from components.artifacts import derive_seed
from components.data.prompts import Prompt
from components.generation.engines import Draw, opened
from components.generation.responses import respond, stop_strings
from components.generation.sampler import Sampled, sample
from components.generation.sampling_params import SamplingParams
from components.models.tokens import ChatTokenizer
from components.records import ModelRef, StartProbe, StartRequest
from components.runtime import progress
from components.statistics.intervals import share

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def measure(
    request: StartRequest,
    probe: StartProbe,
    chat: ChatTokenizer,
    prompts: Sequence[Prompt],
    *,
    ref: ModelRef,
    model: "PreTrainedModel | None",
) -> dict[str, Any]:
    """Sample one response per prompt, by the law of an evaluation, and return what a user must know of them.

    Args:
        request: The policy's limits.
        probe: Number of prompts, law and engine.
        chat: The start model's tokenizer.
        prompts: Held-out prompts in the order in which an evaluation takes them; one of them at least is short enough.
        ref: The start model.
        model: The start model, loaded; None leaves the loading to the engine.

    Returns:
        Numbers of prompts and tokens, shares with their intervals, and the limit and law that they hold for.
    """
    limits = request.policy
    encoded = ((prompt, chat.prompt_ids(prompt.messages)) for prompt in prompts)
    short = ((prompt, ids) for prompt, ids in encoded if len(ids) <= limits.max_prompt_tokens)
    asked = list(itertools.islice(short, probe.num_prompts))
    seeds = [[derive_seed(probe.seed, "start", prompt.prompt_id)] for prompt, _ in asked]
    law = SamplingParams(
        temperature=probe.temperature,
        top_p=probe.top_p,
        top_k=probe.top_k,
        max_new_tokens=limits.max_response_tokens,
        stop_ids=chat.stop_ids,
        stops=stop_strings(chat, probe.stop),
    )
    done = 0

    def report(batch: Sequence[Sampled]) -> None:
        nonlocal done
        done += len(batch)
        progress.report(done, len(asked), "responses of the start model")

    ids = [ids for _, ids in asked]
    progress.report(0, len(asked), "responses of the start model")
    with _draw(request, probe, chat, ids, ref=ref, model=model) as draw:
        began = time.monotonic()
        responses = [of_prompt[0] for of_prompt in respond(draw, chat, ids, seeds=seeds, law=law, on_batch=report)]
        seconds = time.monotonic() - began
    tokens = sum(len(response.token_ids) for response in responses)
    truncation = {"top_p": probe.top_p, "top_k": probe.top_k} if probe.top_p < 1.0 or probe.top_k else {}
    shares = {
        "unfinished_share": sum(response.unfinished for response in responses),
        "empty_share": sum(response.empty for response in responses),
    }
    return {
        "num_prompts": len(responses),
        "max_response_tokens": limits.max_response_tokens,
        "temperature": probe.temperature,
        **truncation,
        **{
            name: share(count, len(responses), confidence=probe.confidence).model_dump()
            for name, count in shares.items()
        },
        "mean_tokens": tokens / len(responses),
        "tokens_per_second": tokens / seconds,
    }


@contextlib.contextmanager
def _draw(
    request: StartRequest,
    probe: StartProbe,
    chat: ChatTokenizer,
    prompts: Sequence[list[int]],
    *,
    ref: ModelRef,
    model: "PreTrainedModel | None",
) -> Iterator[Draw]:
    if model is not None:
        yield partial(sample, model, pad_id=chat.pad_id, batch_size=probe.batch_size)
        return
    longest = max(map(len, prompts)) + request.policy.max_response_tokens
    with opened(
        ref,
        request.policy,
        engine=probe.engine,
        longest=longest,
        pad_id=chat.pad_id,
        batch_size=probe.batch_size,
        reads_text=bool(probe.stop),
        tensor_parallel_size=probe.tensor_parallel_size,
    ) as sampler:
        yield sampler.draw
