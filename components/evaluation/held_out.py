"""The held-out prompts of a round: which of the pool it compares on, and their tokens.

The pool has two parts by content: one for the gates of all rounds, and one that no gate ever sees, for audits. Knows no
model but its tokenizer.
"""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from components.data.columns import columns_of_table
from components.data.draws import quotas
from components.data.funnel import counted, step, too_little
from components.data.messages import Messages, parse_messages
from components.data.prompts import draw, place_in_pass
from components.models.tokens import ChatTokenizer

BEFORE_ALL_PASSES = -1
"""The order by which the audit's part is chosen; passes over the rest count from 0."""

log = logging.getLogger(__name__)


class HeldOut(NamedTuple):
    """Held-out prompts in the order in which they are compared."""

    prompts: list[tuple[str, Messages]]
    columns: list[dict[str, Any]]
    """The other columns of each prompt's row."""
    token_ids: list[list[int]]
    skipped: int
    """Number of prompts that are longer than `max_prompt_tokens` and therefore left out."""


def audit_ids(names: Sequence[str], *, share: float, seed: int) -> list[str]:
    """Return the prompts that no gate sees, chosen by content and seed alone.

    Args:
        names: Prompt ids of the pool, which are digests of their content.
        share: Share of the pool, in [0, 1); at least one prompt is left to the gates.
        seed: The campaign's seed.
    """
    ranked = sorted(set(names), key=lambda name: place_in_pass(name, seed=seed, passes=BEFORE_ALL_PASSES))
    return ranked[: min(round(share * len(ranked)), len(ranked) - 1)]


def gate_ids(
    tags: Mapping[str, str | None], *, round: int, size: int, audit_share: float, seed: int
) -> tuple[list[str], bool]:
    """Draw the prompts of a round's gate: without replacement over the rounds, until the pool is used up.

    Each tag gets its share of the pool. Within a round, the order is random and says nothing of the tag.

    Args:
        tags: Tag of each prompt of the pool, by its id; None for a prompt without one.
        round: Index of the round, from 1.
        size: Number of prompts; all that audits leave if there are fewer.
        audit_share: Share of the pool that is left to audits.
        seed: The campaign's seed.

    Returns:
        The prompts in their order, and whether an earlier round's gate has seen some of them.
    """
    kept = set(audit_ids(list(tags), share=audit_share, seed=seed))
    pools: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(tags.keys() - kept):
        pools[tags[name] or ""].append(name)
    total = sum(map(len, pools.values()))
    size = min(size, total)
    counts = quotas(size, {tag: len(pool) / total for tag, pool in sorted(pools.items())})
    drawn: list[str] = []
    for tag, pool in pools.items():
        if counts[tag]:
            drawn += draw(pool, round=round, per_round=counts[tag], seed=seed)
    seen = any(round * counts[tag] > len(pool) for tag, pool in pools.items())
    return sorted(drawn, key=lambda name: place_in_pass(name, seed=seed, passes=round)), seen


def tags_of(table: pd.DataFrame, tag_column: str) -> dict[str, str | None]:
    """Return each prompt's tag, by its id; None if it has none, or `tag_column` is empty."""
    columns = columns_of_table(table)
    tags = [row.get(tag_column) if tag_column else None for row in columns]
    return {
        name: tag if isinstance(tag, str) and tag else None for name, tag in zip(table["prompt_id"], tags, strict=True)
    }


def chosen(table: pd.DataFrame, names: Sequence[str], chat: ChatTokenizer, *, max_prompt_tokens: int) -> HeldOut:
    """Return prompts of the table, in the order of `names`, that are short enough.

    Raises:
        ValueError: None of them is.
    """
    rows = table.set_index("prompt_id", drop=False).loc[list(names)]
    prompts = [(name, parse_messages(text)) for name, text in zip(rows["prompt_id"], rows["messages"], strict=True)]
    encoded = [chat.prompt_ids(messages) for _, messages in prompts]
    short = [row for row, ids in enumerate(encoded) if len(ids) <= max_prompt_tokens]
    if not short:
        shortest = min(map(len, encoded))
        limit = f"policy.max_prompt_tokens = {max_prompt_tokens}"
        raise ValueError(
            too_little(
                f"all {len(prompts)} held-out prompts are longer than {limit}",
                [
                    step(
                        len(prompts),
                        "held-out prompts",
                        counted({f"longer than {limit} (the shortest has {shortest} tokens)": len(prompts)}, {}),
                    )
                ],
                otherwise="raise policy.max_prompt_tokens",
            )
        )
    skipped = len(prompts) - len(short)
    if skipped:
        log.warning(
            "left out %d of %d held-out prompts that are longer than policy.max_prompt_tokens = %d",
            skipped,
            len(prompts),
            max_prompt_tokens,
        )
    columns = columns_of_table(rows)
    return HeldOut(
        [prompts[row] for row in short], [columns[row] for row in short], [encoded[row] for row in short], skipped
    )
