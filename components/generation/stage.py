"""The door of generation: draw the round's prompts and sample responses to them from the current policy."""

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from components.artifacts import derive_seed, read_table, write_json, write_table
from components.data.columns import COLUMNS, columns_of_table
from components.data.draws import Traits, count_tags, traits_of
from components.data.funnel import counted, step, too_little
from components.data.messages import parse_messages
from components.generation.curriculum import draw_round
from components.generation.engines import opened
from components.generation.paths import SamplingPath
from components.generation.responses import Response, respond, stop_strings
from components.generation.sampler import Sampled
from components.generation.sampling_params import SamplingParams
from components.models.tokens import ChatTokenizer, load_chat
from components.records import GenerateRequest
from components.runtime import progress
from components.runtime.ranks import pick_own_device, rank, world_size
from components.statistics.diversity import measure_diversity

RESPONSE_TYPES = {
    "prompt_id": "str",
    "sample_id": "int64",
    "text": "str",
    "token_ids": "object",
    "n_tokens": "int64",
    "finish_reason": "str",
    "seed": "int64",
    "sampling": "str",
}

log = logging.getLogger(__name__)


def run(request: GenerateRequest, out: Path) -> None:
    """Write `prompts.parquet` (the draw), `responses.parquet` and `generate.json`.

    Each rank samples a share of the prompts, and the first rank writes. A drawn prompt that is longer than
    `max_prompt_tokens` gets no responses and is counted.

    Raises:
        ValueError: No drawn prompt is short enough, or the policy cannot be sampled from.
        RuntimeError: The policy's logits are not finite.
    """
    pick_own_device()
    table = read_table(request.prompts).set_index("prompt_id")
    pool = table["messages"]
    traits = _traits(table, request)
    drawn, left_out, filled_up = draw_round(pool.index, request, traits)
    if left_out or filled_up:
        log.info("%d solved prompts are left out; %d are drawn for lack of others", left_out, filled_up)
    chat = load_chat(request.policy, request.limits)
    encoded = {name: chat.prompt_ids(parse_messages(pool[name])) for name in drawn}
    limit = request.limits.max_prompt_tokens
    sampled = {name: ids for name, ids in encoded.items() if len(ids) <= limit}
    if not sampled:
        raise ValueError(_all_too_long(request, len(pool), len(drawn), min(map(len, encoded.values())), left_out))
    skipped = len(drawn) - len(sampled)
    if skipped:
        log.warning(
            "%d of %d prompts are longer than policy.max_prompt_tokens = %d and get no responses",
            skipped,
            len(drawn),
            limit,
        )
    seeds = [
        [derive_seed(request.seed, name, number) for number in range(request.generation.samples_per_prompt)]
        for name in sampled
    ]
    responses, path = _respond(request, chat, list(sampled.values()), seeds)
    if rank() != 0:
        return
    everything = [response for of_prompt in responses for response in of_prompt]
    counts: dict[str, Any] = {
        "prompts": len(drawn),
        "responses": len(everything),
        "skipped_long_prompts": skipped,
        "solved_left_out": left_out,
        "solved_drawn": filled_up,
        "tokens": sum(len(response.token_ids) for response in everything),
        "unfinished": sum(response.unfinished for response in everything),
        "empty": sum(response.empty for response in everything),
        "stopped_by_text": sum(response.stopped_by_text for response in everything),
        "sampling": path._asdict(),
        "diversity": measure_diversity(
            (response.answer_ids for response in everything),
            [[response.text for response in of_prompt] for of_prompt in responses],
        ).model_dump(),
    }
    prompts = pd.DataFrame({"prompt_id": drawn, "messages": [pool[name] for name in drawn]}, dtype="str")
    if traits is not None and request.tag_column:
        prompts["tag"] = [traits[name].tag for name in drawn]
        counts["tags"] = count_tags(prompts["tag"])
    if COLUMNS in table:
        prompts[COLUMNS] = table.loc[drawn, COLUMNS].to_numpy()
    prompts["token_ids"] = [encoded[name] for name in drawn]
    write_table(out / "prompts.parquet", prompts)
    write_table(out / "responses.parquet", _table(list(sampled), seeds, responses, _sampling(request)))
    write_json(out / "generate.json", counts)


def _traits(table: pd.DataFrame, request: GenerateRequest) -> dict[str, Traits] | None:
    """Return the tag and weight of each prompt in the pool; None if the draw needs neither."""
    if not request.tag_column and not request.weight_column:
        return None
    columns = columns_of_table(table)
    return {name: traits_of(own, request, name) for name, own in zip(table.index, columns, strict=True)}


def _all_too_long(request: GenerateRequest, pool: int, drawn: int, shortest: int, resting: int) -> str:
    limit = f"policy.max_prompt_tokens = {request.limits.max_prompt_tokens}"
    causes = {
        f"left to other rounds by prompts.per_round = {request.per_round}": pool - drawn - resting,
        f"solved, and resting by prompts.solved_rounds = {request.solved_rounds}": resting,
    }
    long = {f"longer than {limit} (the shortest has {shortest} tokens)": drawn}
    return too_little(
        f"all {drawn} prompts of the round are longer than {limit}",
        [step(pool, "training prompts", counted(causes, {})), step(drawn, "drawn prompts", counted(long, {}))],
        otherwise="raise policy.max_prompt_tokens",
    )


def _respond(
    request: GenerateRequest,
    chat: ChatTokenizer,
    prompts: Sequence[list[int]],
    seeds: Sequence[Sequence[int]],
) -> tuple[list[list[Response]], SamplingPath]:
    generation, most = request.generation, request.limits.max_response_tokens
    total = len(prompts) * generation.samples_per_prompt
    began, done, tokens = time.monotonic(), 0, 0

    def report(batch: Sequence[Sampled]) -> None:
        nonlocal done, tokens
        # Only the first rank reports; the other ranks' shares are about as large.
        done += world_size() * len(batch)
        tokens += world_size() * sum(len(answer.token_ids) for answer in batch)
        progress.report(min(done, total), total, f"{tokens / (time.monotonic() - began):.0f} tokens/s")

    with opened(
        request.policy,
        request.limits,
        engine=generation.engine,
        longest=max(map(len, prompts)) + most,
        pad_id=chat.pad_id,
        batch_size=generation.batch_size,
        reads_text=bool(generation.stop),
        tensor_parallel_size=generation.tensor_parallel_size,
    ) as policy:
        progress.report(0, total, "the policy is loaded")
        law = SamplingParams(
            temperature=generation.temperature,
            top_p=generation.top_p,
            top_k=generation.top_k,
            max_new_tokens=most,
            stop_ids=chat.stop_ids,
            stops=stop_strings(chat, generation.stop),
        )
        return respond(policy.draw, chat, prompts, seeds=seeds, law=law, on_batch=report), policy.path


def _sampling(request: GenerateRequest) -> str:
    """Return the law of the round's responses, as JSON: which weights, and how their distribution is changed."""
    generation = request.generation
    law = {"temperature": generation.temperature, "top_p": generation.top_p, "top_k": generation.top_k}
    stop = {"stop": list(generation.stop)} if generation.stop else {}
    return json.dumps({"policy": request.policy.digest, **law, **stop})


def _table(
    names: Sequence[str], seeds: Sequence[Sequence[int]], responses: Sequence[Sequence[Response]], sampling: str
) -> pd.DataFrame:
    rows = [
        (name, number, answer.text, answer.token_ids, len(answer.token_ids), answer.finish_reason, seed, sampling)
        for name, own_seeds, of_prompt in zip(names, seeds, responses, strict=True)
        for number, (seed, answer) in enumerate(zip(own_seeds, of_prompt, strict=True))
    ]
    return pd.DataFrame(rows, columns=list(RESPONSE_TYPES)).astype(RESPONSE_TYPES)
