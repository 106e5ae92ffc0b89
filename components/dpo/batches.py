"""Pairs as token ids, and the plan of which pair is trained on when, on which rank, in which micro-batch.

Knows no model.
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from components.dpo.judged_violations import VIOLATIONS
from components.dpo.mixing import mixed_order
from components.validation.semantics import TOKEN_COLUMNS


@dataclass(frozen=True)
class Pair:
    """One preference pair as token ids, and the probability that chosen is really preferred.

    An unpaired response has one answer: `chosen` if it is desirable, else `rejected`, each with probability p. The
    other answer is empty.
    """

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    p: float
    name: str = "a pair"
    """Name for messages: the pair's table, its row (from 0) and its prompt."""
    tag: str = ""
    """Kind of preference."""
    weight: float = 1.0
    """Weight of the pair in the loss, beside the others; falls with the age of a replayed pair."""
    violations: tuple[float, float] = (0.0, 0.0)
    """How far chosen and rejected break the rule of `constraints.function`, each in [0, 1]; 0 without such a rule."""

    @property
    def is_unpaired(self) -> bool:
        """Whether it is a single response."""
        return not (self.chosen and self.rejected)

    @property
    def num_tokens(self) -> int:
        """Tokens of the prompt and both answers."""
        return len(self.prompt) + len(self.chosen) + len(self.rejected)

    @property
    def longest(self) -> int:
        """Tokens of the prompt and its longer answer."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))

    @property
    def num_padded_tokens(self) -> int:
        """Tokens of a row for each answer, all as long as the longest."""
        return self.longest * (bool(self.chosen) + bool(self.rejected))

    @property
    def answer(self) -> list[int]:
        """The chosen answer, or the only one."""
        return self.chosen or self.rejected


def read_pairs(table: pd.DataFrame, *, source: str) -> list[Pair]:
    """Return the pairs of a validated table with the tokens that it holds; `source` names the table in messages."""
    columns = (table[name] for name in (*TOKEN_COLUMNS, "p", "prompt_id", "tag", "weight"))
    return [
        Pair(
            _tokens(prompt),
            _tokens(chosen),
            _tokens(rejected),
            float(p),
            f"{source} row {row} (prompt {prompt_id})",
            tag,
            float(weight),
            violations,
        )
        for row, (prompt, chosen, rejected, p, prompt_id, tag, weight, violations) in enumerate(
            zip(*columns, _violations(table), strict=True)
        )
    ]


def _violations(table: pd.DataFrame) -> list[tuple[float, float]]:
    """Return the violations of each pair's answers; that of an answer which a pair has not counts nowhere."""
    if VIOLATIONS[0] not in table:
        return [(0.0, 0.0)] * len(table)
    chosen, rejected = (table[name].astype("float64").fillna(0.0) for name in VIOLATIONS)
    return list(zip(chosen, rejected, strict=True))


def _tokens(cell: Any) -> list[int]:
    """Return the tokens of a cell; a single response has no other answer, so that cell is null."""
    return [] if cell is None or isinstance(cell, float) else [int(token) for token in cell]


@dataclass(frozen=True)
class Slot:
    """A pair's place in a micro-batch; one of weight 0 keeps ranks in step and adds nothing to the loss."""

    pair: int
    weight: float


@dataclass(frozen=True)
class Plan:
    """The pairs of each optimizer step. The same pairs meet in a step whatever the ranks and micro-batches are."""

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
        """Optimizer steps in a pass over the pairs."""
        return -(-self.num_pairs // self.pairs_per_step)

    @property
    def num_steps(self) -> int:
        """Optimizer steps in all."""
        return self.epochs * self.steps_per_epoch

    def steps(self, first: int) -> Iterator[tuple[int, list[int]]]:
        """Yield (step, pairs) from step `first` on, counting from 0; each epoch has its own seeded order.

        The steps of an epoch differ by one pair at most: a last one of few pairs would move the weights as far as the
        others do, on less evidence.
        """
        order: list[int] = []
        for step in range(first, self.num_steps):
            epoch, place = divmod(step, self.steps_per_epoch)
            if place == 0 or not order:
                order = mixed_order(self.tags, self.tag_shares, seed=self.seed + epoch)
            yield step, order[self._first_place(place) : self._first_place(place + 1)]

    def _first_place(self, place: int) -> int:
        """Return where the step at this place of an epoch begins in the epoch's order."""
        return -(-place * self.num_pairs // self.steps_per_epoch)


def token_counts(pairs: Sequence[Pair], *, padded: bool) -> list[int]:
    """Return the tokens of each pair: its prompt counted once or, if rows are padded, one row for each answer."""
    return [pair.num_padded_tokens if padded else pair.num_tokens for pair in pairs]


@dataclass(frozen=True)
class Layout:
    """The spread of a step's pairs over ranks and micro-batches.

    Pairs are spread by their tokens, so that all have about as much to do. If rows are padded, pairs of like length
    share a micro-batch.
    """

    lengths: Sequence[int]
    """Tokens of each pair, as of `token_counts`."""
    max_tokens: int
    """Tokens in a micro-batch, padding too; a pair that is longer is alone in one."""
    max_pairs: int = 0
    """Pairs in a micro-batch; 0 sets no limit."""
    rank: int = 0
    world_size: int = 1
    padded: bool = False
    """Whether the rows of a micro-batch are padded to one length."""

    def micro_batches(self, pairs: Sequence[int]) -> list[list[Slot]]:
        """Return this rank's micro-batches of a step: as many on every rank, none empty.

        A pair's weight is its share of the step's mean. DeepSpeed averages over ranks, so weights sum to the world size
        over all of them, also if a step has fewer pairs than there are ranks.
        """
        weight = self.world_size / len(pairs)
        filler = Slot(min(pairs, key=lambda pair: self.lengths[pair]), 0.0)
        mine = self._bins(pairs)[self.rank :: self.world_size]
        return [[Slot(pair, weight) for pair in several] or [filler] for several in mine]

    def most_pairs(self, pairs_per_step: int) -> int:
        """Return the most pairs that a micro-batch can have, which is if the shortest ones meet."""
        shortest = sorted(self.lengths)[:pairs_per_step]
        fitting = sum(self._tokens(shortest[:count]) <= self.max_tokens for count in range(1, len(shortest) + 1))
        return max(1, min(fitting, self.max_pairs or fitting, -(-pairs_per_step // self.world_size)))

    def _bins(self, pairs: Sequence[int]) -> list[list[int]]:
        """Return the pairs in the fewest bins that keep to the limits; their number is a multiple of the world size."""
        if self.padded:
            return self._of_like_length(pairs)
        tokens = sum(min(self.lengths[pair], self.max_tokens) for pair in pairs)
        at_least = max(-(-tokens // self.max_tokens), -(-len(pairs) // (self.max_pairs or len(pairs))))
        each = -(-min(at_least, len(pairs)) // self.world_size)
        while True:
            bins = self._balanced(pairs, each * self.world_size)
            if all(len(several) <= 1 or self._fits(several) for several in bins):
                return bins
            each += 1

    def _fits(self, pairs: Sequence[int]) -> bool:
        tokens = self._tokens([self.lengths[pair] for pair in pairs])
        return tokens <= self.max_tokens and len(pairs) <= (self.max_pairs or len(pairs))

    def _tokens(self, lengths: Sequence[int]) -> int:
        """Return the tokens of a micro-batch of pairs of these lengths."""
        return len(lengths) * max(lengths) if self.padded else sum(lengths)

    def _of_like_length(self, pairs: Sequence[int]) -> list[list[int]]:
        """Fill one bin after the other with pairs from the longest to the shortest.

        Then split the largest bins until their number is a multiple of the world size, or there are as many as pairs.
        """
        bins: list[list[int]] = []
        for pair in sorted(pairs, key=lambda pair: -self.lengths[pair]):
            if bins and self._fits([*bins[-1], pair]):
                bins[-1].append(pair)
            else:
                bins.append([pair])
        while len(bins) % self.world_size:
            largest = max(range(len(bins)), key=lambda number: len(bins[number]))
            several = bins[largest]
            bins[largest : largest + 1] = [several[: len(several) // 2], several[len(several) // 2 :]]
        place = {pair: number for number, pair in enumerate(pairs)}
        return [sorted(several, key=place.__getitem__) for several in bins]

    def _balanced(self, pairs: Sequence[int], count: int) -> list[list[int]]:
        """Put the longest pairs first, each into the bin with the fewest tokens (Graham 1969).

        The pairs of a bin keep the step's order.
        """
        bins: list[list[int]] = [[] for _ in range(count)]
        free = [(0, number) for number in range(count)]
        for place in sorted(range(len(pairs)), key=lambda place: -self.lengths[pairs[place]]):
            tokens, number = heapq.heappop(free)
            bins[number].append(place)
            if len(bins[number]) < (self.max_pairs or len(pairs)):
                heapq.heappush(free, (tokens + self.lengths[pairs[place]], number))
        return [[pairs[place] for place in sorted(places)] for places in bins]
