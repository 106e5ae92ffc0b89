"""One round on the built-in campaign without its flow.

Responses of the start model, training on any labels, and the win rate they lead to.

What varies between the arms of a comparison is only the table of pairs: the responses, the training's seed and the
held-out draws of one seed are the same for all of them.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from components.artifacts import derive_seed, file_digest, write_table
from components.builtin.starter import starter_model
from components.builtin.world import held_out_prompts, support_reply, train_prompts
from components.config import ConstraintsConfig, LoraConfig, PolicyConfig, SoftPromptConfig, TrainingConfig
from components.data.content import HeldOutContents
from components.data.messages import Messages, format_messages
from components.data.prompts import draw, prompt_id
from components.dpo import stage as dpo
from components.generation.responses import respond
from components.generation.sampler import sample
from components.generation.sampling_params import SamplingParams
from components.models.loading import load_policy, load_tokenizer, pick_device, resolve_dtype, start_ref, trained_ref
from components.models.tokens import ChatTokenizer
from components.records import Artifact, ModelRef, TrainRequest
from components.validation.semantics import encode

LIMITS = PolicyConfig(dtype="float32", max_prompt_tokens=64, max_response_tokens=64)
COLUMNS = ["prompt_id", "prompt", "chosen", "rejected", "p", "tag"]


@dataclass(frozen=True)
class Judged:
    """Two different responses to a prompt, and the exact rule's scores of them."""

    prompt_id: str
    messages: Messages
    first: str
    second: str
    advantage: float
    """Score of the first response minus score of the second."""


def start() -> ModelRef:
    """Return the built-in campaign's start model."""
    return start_ref(starter_model(), revision="main")


def training(**knobs: Any) -> TrainingConfig:
    """Return the demo's training section with one epoch."""
    knobs = {"beta": 0.2, "learning_rate": 2e-4, "epochs": 1, "pairs_per_step": 16, "micro_batch_pairs": 16} | knobs
    return TrainingConfig(**knobs)


def pool(number: int, *, seed: int) -> list[Messages]:
    """Return the prompts of a round."""
    prompts = {prompt_id(messages): messages for messages in train_prompts()}
    return [prompts[name] for name in draw(list(prompts), round=1, per_round=number, seed=seed)]


def sampled(model: ModelRef, prompts: Sequence[Messages], *, samples: int, seed: int) -> list[list[str]]:
    """Return `samples` responses of a model to each prompt."""
    chat = ChatTokenizer(load_tokenizer(model))
    policy = load_policy(model, dtype=resolve_dtype("float32"), device=pick_device(), quantization="none")
    law = SamplingParams(
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        max_new_tokens=64,
        stop_ids=chat.stop_ids,
    )
    ids = [chat.prompt_ids(messages) for messages in prompts]
    seeds = [[derive_seed(seed, model.digest, row, number) for number in range(samples)] for row in range(len(ids))]
    draw = partial(sample, policy, pad_id=chat.pad_id, batch_size=128)
    found = respond(draw, chat, ids, seeds=seeds, law=law, on_batch=lambda _: None)
    return [[response.text for response in several] for several in found]


def trained(
    pairs: Sequence[dict[str, Any]],
    policy: ModelRef,
    config: TrainingConfig,
    folder: Path,
    *,
    seed: int,
    reference: ModelRef | None = None,
) -> ModelRef:
    """Train a policy on rows of `COLUMNS`, with itself as the reference if none is given."""
    out = Path(tempfile.mkdtemp(dir=folder))
    tables = {"train": pairs, "eval": []}
    chat = ChatTokenizer(load_tokenizer(policy))
    artifacts = {}
    for name, rows in tables.items():
        path = out / f"{name}.parquet"
        table = pd.DataFrame(rows, columns=COLUMNS).astype({"p": "float64"}).assign(weight=1.0)
        write_table(
            path, table.assign(**encode(table, chat, limits=LIMITS, held_out=HeldOutContents((), "content")).tokens)
        )
        artifacts[name] = Artifact(path=path, digest=file_digest(path))
    request = TrainRequest(
        policy=policy,
        reference=reference or policy,
        **artifacts,
        limits=LIMITS,
        lora=LoraConfig(),
        soft_prompt=SoftPromptConfig(),
        training=config,
        constraints=ConstraintsConfig(),
        round=1,
        seed=seed,
    )
    dpo.run(request, out)
    return trained_ref(out, policy, 1)


def wins(ours: Sequence[Sequence[str]], theirs: Sequence[Sequence[str]], prompts: Sequence[Messages]) -> np.ndarray:
    """Return, per prompt, how often the rule prefers one of our responses to one of theirs; a tie counts half."""
    found = []
    for messages, our, their in zip(prompts, ours, theirs, strict=True):
        own = np.array([support_reply(messages, text) for text in our])[:, None]
        other = np.array([support_reply(messages, text) for text in their])[None, :]
        found.append(((own > other) + 0.5 * (own == other)).mean())
    return np.array(found)


class HeldOut:
    """Held-out prompts with the start's responses to them."""

    def __init__(self, model: ModelRef, *, number: int, samples: int, seed: int) -> None:
        self.prompts = held_out_prompts()[:number]
        self.samples, self.seed = samples, seed
        self._start = sampled(model, self.prompts, samples=samples, seed=seed + 1)

    def answers(self, model: ModelRef) -> list[list[str]]:
        """Return a model's responses."""
        return sampled(model, self.prompts, samples=self.samples, seed=self.seed)

    def wins_against_start(self, answers: Sequence[Sequence[str]]) -> np.ndarray:
        """Return the win rate against the start, by prompt."""
        return wins(answers, self._start, self.prompts)


def different_pairs(prompts: Sequence[Messages], responses: Sequence[Sequence[str]]) -> list[Judged]:
    """Return the first two responses to each prompt, if the rule prefers one of them."""
    found = []
    for messages, (first, second, *_) in zip(prompts, responses, strict=True):
        advantage = support_reply(messages, first) - support_reply(messages, second)
        if first.strip() and second.strip() and advantage:
            found.append(Judged(prompt_id(messages), messages, first, second, advantage))
    return found


def row(pair: Judged, p_first: float) -> dict[str, Any]:
    """Return the pair for a probability that its first response is better: the likelier one is chosen."""
    chosen, rejected = (pair.first, pair.second) if p_first >= 0.5 else (pair.second, pair.first)
    p = max(p_first, 1 - p_first)
    return {
        "prompt_id": pair.prompt_id,
        "prompt": format_messages(pair.messages),
        "chosen": chosen,
        "rejected": rejected,
        "p": p,
        "tag": "x",
    }
