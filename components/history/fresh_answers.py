"""Samples the models of two rounds on the same held-out prompts anew. Loads one model at a time."""

from collections.abc import Sequence
from typing import NamedTuple

from components.artifacts import derive_seed, read_table
from components.campaign.files import read_campaign
from components.campaign.models import model_of_round
from components.campaign.state import campaign_directory, start_directory
from components.config import CampaignConfig
from components.data.messages import Messages, parse_messages
from components.generation.engines import opened
from components.generation.responses import respond, stop_strings
from components.generation.sampling_params import SamplingParams
from components.history.names import RoundName
from components.models.loading import give_memory_back
from components.models.tokens import ChatTokenizer, load_chat
from components.records import ModelRef
from components.runtime import progress


class FreshAnswers(NamedTuple):
    """Both models' answers to one prompt."""

    prompt: str
    left: str
    right: str


class _Side(NamedTuple):
    config: CampaignConfig
    model: ModelRef
    chat: ChatTokenizer


def fresh_answers(left: RoundName, right: RoundName, *, number: int) -> list[FreshAnswers]:
    """Sample an answer of both rounds' models to some held-out prompts, which neither was trained on.

    Both are sampled as the evaluation of the left one's campaign samples.

    Args:
        left: A finished round.
        right: Another one, of the same campaign or of one with the same held-out prompts.
        number: Prompts.

    Raises:
        ValueError: A round's weights were removed, or no held-out prompt is shared and short enough.
    """
    sides = [_side(name) for name in (left, right)]
    prompts = _shared_prompts((left, right), [side.chat for side in sides], sides[0].config)[:number]
    limit = sides[0].config.policy.max_prompt_tokens
    if not prompts:
        raise ValueError(
            f"{left} and {right} share no held-out prompt of at most {limit} tokens: compare rounds with the same "
            "held-out prompts"
        )
    texts = [_sampled(side, prompts, law_of=sides[0].config) for side in sides]
    return [FreshAnswers(_asked(messages), *answers) for (_, messages), *answers in zip(prompts, *texts, strict=True)]


def _side(name: RoundName) -> _Side:
    directory = campaign_directory(name.campaign)
    model = model_of_round(directory, name.round)
    config = read_campaign(directory).config
    return _Side(config, model, load_chat(model, config.policy))


def _shared_prompts(
    names: Sequence[RoundName], chats: Sequence[ChatTokenizer], config: CampaignConfig
) -> list[tuple[str, Messages]]:
    """Return the held-out prompts of both, in an order by chance; their ids are digests of their content."""
    tables = []
    for name in names:
        table = read_table(start_directory(campaign_directory(name.campaign), name.round) / "held_out_prompts.parquet")
        tables.append(dict(zip(table["prompt_id"], table["messages"], strict=True)))
    shared = sorted(tables[0].keys() & tables[1].keys(), key=lambda name: derive_seed(config.seed, "compare", name))
    prompts = [(name, parse_messages(tables[0][name])) for name in shared]
    limit = config.policy.max_prompt_tokens
    return [each for each in prompts if all(len(chat.prompt_ids(each[1])) <= limit for chat in chats)]


def _sampled(side: _Side, prompts: Sequence[tuple[str, Messages]], *, law_of: CampaignConfig) -> list[str]:
    settings, generation, limits = law_of.evaluation, law_of.generation, law_of.policy
    law = SamplingParams(
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        max_new_tokens=limits.max_response_tokens,
        stop_ids=side.chat.stop_ids,
        stops=stop_strings(side.chat, generation.stop),
    )
    token_ids = [side.chat.prompt_ids(messages) for _, messages in prompts]
    with opened(
        side.model,
        side.config.policy,
        engine=generation.engine,
        longest=max(map(len, token_ids)) + limits.max_response_tokens,
        pad_id=side.chat.pad_id,
        batch_size=generation.batch_size,
        reads_text=bool(generation.stop),
        tensor_parallel_size=generation.tensor_parallel_size,
    ) as policy:
        seeds = [[derive_seed(law_of.seed, side.model.digest, name)] for name, _ in prompts]
        progress.report(0, len(prompts), f"answers of round {side.model.round}")
        answers = respond(policy.draw, side.chat, token_ids, seeds=seeds, law=law, on_batch=lambda _: None)
    del policy
    give_memory_back()
    return [answer.text for (answer,) in answers]


def _asked(messages: Messages) -> str:
    return str(messages[-1]["content"])
