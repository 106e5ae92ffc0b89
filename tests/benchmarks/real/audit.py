"""Fresh answers of several models to prompts that no gate saw, scored by the held-out judge.

The gate's own numbers cannot say whether the gate was right: they are what it decided by.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from components.artifacts import derive_seed
from components.config import CampaignConfig, JudgeConfig
from components.data.prompts import load_prompts
from components.generation.engines import opened
from components.generation.responses import respond
from components.generation.sampling_params import SamplingParams
from components.judges.protocol import Group, JudgeContext, scores
from components.judges.registry import load_judge
from components.models.loading import give_memory_back
from components.models.tokens import load_chat
from components.records import Interval, ModelRef
from components.statistics.intervals import win_rate
from components.statistics.length_control import length_controlled_win_rate

RESAMPLES, CONFIDENCE = 2000, 0.95


class ModelAnswers(NamedTuple):
    """A model's answers to the audit's prompts, each (prompts,)."""

    rewards: np.ndarray
    """Scores by the held-out judge."""
    training_rewards: np.ndarray
    """Scores by the judge that the model was trained with."""
    lengths: np.ndarray
    """Tokens."""


class HeadToHead(NamedTuple):
    """How often one model's answer beats another's on the same prompt."""

    rate: Interval
    length_controlled: Interval
    training_judge: Interval


def answer(
    models: Mapping[str, ModelRef], config: CampaignConfig, prompts: Path, *, seed: int
) -> dict[str, ModelAnswers]:
    """Sample one answer of each model to each prompt, and score all of them with both judges."""
    loaded = load_prompts(str(prompts), column="prompt", split="train")
    texts: dict[str, list[str]] = {}
    lengths: dict[str, list[int]] = {}
    for name, ref in models.items():
        print(f"audit: {name} answers {len(loaded)} prompts", flush=True)
        responses = _sampled(ref, config, [prompt.messages for prompt in loaded], seed)
        texts[name], lengths[name] = [each.text for each in responses], [len(each.token_ids) for each in responses]
    groups = [
        Group(prompt.prompt_id, prompt.messages, tuple((number, texts[name][row]) for number, name in enumerate(texts)))
        for row, prompt in enumerate(loaded)
    ]
    print(f"audit: both judges score {len(groups) * len(texts)} answers", flush=True)
    judged = [_scores(judge, groups, len(texts)) for judge in (config.evaluation_judge, config.judge)]
    return {
        name: ModelAnswers(judged[0][:, number], judged[1][:, number], np.array(lengths[name]))
        for number, name in enumerate(texts)
    }


def _sampled(ref: ModelRef, config: CampaignConfig, conversations: Sequence, seed: int) -> list:
    chat = load_chat(ref, config.policy)
    ids = [chat.prompt_ids(messages) for messages in conversations]
    law = SamplingParams(
        temperature=config.evaluation.temperature,
        top_p=1.0,
        top_k=0,
        max_new_tokens=config.policy.max_response_tokens,
        stop_ids=chat.stop_ids,
    )
    longest = max(map(len, ids)) + config.policy.max_response_tokens
    seeds = [[derive_seed(seed, f"{ref.digest}/{row}")] for row in range(len(ids))]
    with opened(ref, config.policy, engine="transformers", longest=longest, pad_id=chat.pad_id, batch_size=0) as policy:
        drawn = respond(policy.draw, chat, ids, seeds=seeds, law=law, on_batch=lambda _: None)
    give_memory_back()
    return [responses[0] for responses in drawn]


def _scores(judge: JudgeConfig, groups: Sequence[Group], models: int) -> np.ndarray:
    """Return the score of each answer, (prompts, models); NaN where there is no valid verdict."""
    known = scores(load_judge(judge, JudgeContext(Path())).judge(groups))
    return np.array([[known.get((group.prompt_id, model), np.nan) for model in range(models)] for group in groups])


def head_to_head(one: ModelAnswers, other: ModelAnswers, *, seed: int = 1) -> HeadToHead:
    """Compare two models on the prompts on which both answers have a score."""

    def outcomes(name: str) -> np.ndarray:
        return (1 + np.sign(getattr(one, name) - getattr(other, name))) / 2

    def rate(values: np.ndarray) -> Interval:
        known = values[~np.isnan(values)].tolist()
        return win_rate(known, confidence=CONFIDENCE, resamples=RESAMPLES, seed=seed)

    held_out = outcomes("rewards")
    known = ~np.isnan(held_out)
    controlled = length_controlled_win_rate(
        held_out[known].tolist(),
        (one.lengths - other.lengths)[known].tolist(),
        confidence=CONFIDENCE,
        resamples=RESAMPLES,
        seed=seed,
    )
    return HeadToHead(rate(held_out), controlled, rate(outcomes("training_rewards")))
