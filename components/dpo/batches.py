"""Pairs as token ids, and the plan of which pair is trained on when, on which rank, in which micro-batch. Knows no model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

from components.dpo.mixing import mixed_order
from components.tokens import parse_messages, prompt_ids, response_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Pair:
    """One preference pair as token ids, and the probability that chosen is really preferred.

    An unpaired response has one answer and an empty other one: it is `chosen` where it is desirable, else `rejected`, each with
    probability p.
    """

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    p: float
    name: str = "a pair"
    """Where the pair stands, for messages: its table, its row (from 0) and its prompt."""
    tag: str = ""
    """Kind of preference."""
    weight: float = 1.0
    """What the pair counts in the loss beside the others; falls with the age of a replayed one."""

    @property
    def is_unpaired(self) -> bool:
        """Whether it is a single response."""
        return not (self.chosen and self.rejected)

    @property
    def answer(self) -> list[int]:
        """The chosen answer, or the only one."""
        return self.chosen or self.rejected


def encode_pairs(table: pd.DataFrame, tokenizer: "PreTrainedTokenizerBase", *, max_response_tokens: int, source: str) -> list[Pair]:
    """Tokenises a validated table of pairs, in its order; `source` names the table in messages."""
    pairs = []
    columns = (table[name] for name in ("prompt", "chosen", "rejected", "p", "prompt_id", "tag", "weight"))
    for row, (prompt, chosen, rejected, p, prompt_id, tag, weight) in enumerate(zip(*columns, strict=True)):
        messages = parse_messages(prompt)
        kept, dropped = (
            response_ids(tokenizer, messages, text, max_tokens=max_response_tokens) if isinstance(text, str) else []
            for text in (chosen, rejected)
        )
        name = f"{source} row {row} (prompt {prompt_id})"
        pairs.append(Pair(prompt_ids(tokenizer, messages), kept, dropped, float(p), name, tag, float(weight)))
    return pairs


@dataclass(frozen=True)
class Slot:
    """A pair's place in a micro-batch; weight 0 marks padding that keeps ranks in step and adds nothing to the loss."""

    pair: int
    weight: float


@dataclass(frozen=True)
class Plan:
    """Which pairs each optimizer step takes. The same pairs meet in a step whatever the ranks and micro-batches are."""

    tags: Sequence[str]
    """Tag of each pair."""
    pairs_per_step: int
    epochs: int
    seed: int
    tag_shares: Mapping[str, float] = field(default_factory=dict)
    """Share of an epoch by tag; empty takes every pair once an epoch."""

    @property
    def num_pairs(self) -> int:
        """Pairs of an epoch."""
        return len(self.tags)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in a pass over the pairs; the last one may hold fewer pairs."""
        return -(-self.num_pairs // self.pairs_per_step)

    @property
    def num_steps(self) -> int:
        """Optimizer steps in all."""
        return self.epochs * self.steps_per_epoch

    def steps(self, first: int) -> Iterator[tuple[int, list[int]]]:
        """Yields (step, pairs) from step `first` on, counting from 0; each epoch is its own seeded order."""
        order: list[int] = []
        for step in range(first, self.num_steps):
            epoch, place = divmod(step, self.steps_per_epoch)
            if place == 0 or not order:
                order = mixed_order(self.tags, self.tag_shares, seed=self.seed + epoch)
            yield step, order[place * self.pairs_per_step : (place + 1) * self.pairs_per_step]


@dataclass(frozen=True)
class Layout:
    """How a step's pairs are spread over ranks and micro-batches."""

    micro_batch_pairs: int
    accumulation: int
    rank: int
    world_size: int

    @classmethod
    def fit(cls, *, pairs_per_step: int, micro_batch_pairs: int, rank: int, world_size: int) -> "Layout":
        """Takes the configured micro-batch, or less where a rank's share of a step is smaller."""
        share = -(-pairs_per_step // world_size)
        micro = min(micro_batch_pairs, share)
        return cls(micro, -(-share // micro), rank, world_size)

    def micro_batches(self, pairs: list[int]) -> list[list[Slot]]:
        """This rank's micro-batches of a step. Weights sum, over all ranks, to world size x accumulation.

        DeepSpeed averages over ranks and accumulation, so the optimizer sees the mean over the step's pairs, also when the last step
        of an epoch has fewer pairs than the others or fewer than there are ranks.
        """
        capacity = self.micro_batch_pairs * self.accumulation * self.world_size
        weight = self.world_size * self.accumulation / len(pairs)
        slots = [Slot(pair, weight) for pair in pairs] + [Slot(pairs[0], 0.0)] * (capacity - len(pairs))
        mine = slots[self.rank :: self.world_size]
        return [mine[begin : begin + self.micro_batch_pairs] for begin in range(0, len(mine), self.micro_batch_pairs)]
