"""A preference pair of a data set, and the pairs of one. Knows no form in which they are written."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from components.data.columns import format_columns
from components.data.messages import Messages, format_messages

TIED = 0.5
"""Probability that chosen is preferred in a pair of two equally good answers."""


@dataclass(frozen=True)
class SeedPair:
    """A preference pair of a data set.

    A value that its row does not have is None, and so is the other answer of a single response.
    """

    messages: Messages
    chosen: str | None
    rejected: str | None
    p: float | None
    margin: float | None
    tag: str | None
    place: str = field(default="", compare=False)
    """Name of its row, for errors."""
    columns: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """JSON values of the row's other columns, by name; empty if nothing reads them."""

    @property
    def is_single(self) -> bool:
        """Whether it is a single response."""
        return self.chosen is None or self.rejected is None

    @property
    def is_tie(self) -> bool:
        """Whether its label says that both answers are equally good."""
        return self.p == TIED or (self.p is None and self.margin == 0)

    @property
    def better(self) -> str | None:
        """The answer that its label prefers, against its order if p is below 0.5; None for a tie or a single one."""
        if self.is_single or self.is_tie:
            return None
        is_turned = self.p < TIED if self.p is not None else (self.margin or 0) < 0
        return self.rejected if is_turned else self.chosen


@dataclass(frozen=True)
class SeedPairs:
    """The pairs of a data set, and the rows that give none."""

    pairs: list[SeedPair]
    split_earlier: tuple[str, ...]
    """Places of the rows whose two conversations differ before the last answer, so that there is no common prompt."""
    left_out: Mapping[str, int] = field(default_factory=dict, hash=False)
    """Number of other rows that give no pair, by reason, such as a prompt with fewer than two rated answers."""

    @property
    def num_without_pair(self) -> int:
        """Number of rows that give no pair."""
        return len(self.split_earlier) + sum(self.left_out.values())

    @property
    def num_rows(self) -> int:
        """Number of pairs and of rows that give none."""
        return len(self.pairs) + self.num_without_pair

    @property
    def digest(self) -> str:
        """sha256 over the pairs in order and the number of rows that give none."""
        total = hashlib.sha256(f"{self.num_without_pair}\n".encode())
        for pair in self.pairs:
            content = [format_messages(pair.messages), pair.chosen, pair.rejected, pair.p, pair.margin, pair.tag]
            content += [format_columns(pair.columns)] if pair.columns else []
            total.update(json.dumps(content).encode() + b"\n")
        return total.hexdigest()
