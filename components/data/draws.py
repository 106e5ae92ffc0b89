"""A round's draw by tag and by weight: how many prompts of each tag, and how often a prompt comes up.

Pure. Tags and weights come from columns of the prompts' rows.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from components.config import PromptsConfig
from components.data.prompts import Prompt, place_in_pass


class Traits(NamedTuple):
    """What the draw knows of a prompt."""

    tag: str | None
    weight: float


class Columns(Protocol):
    """Names of the columns; empty for none."""

    @property
    def tag_column(self) -> str:
        """Column of the tags."""

    @property
    def weight_column(self) -> str:
        """Column of the weights."""


def traits_of(columns: Mapping[str, Any], config: Columns, place: str) -> Traits:
    """Return a prompt's tag and weight; without such columns, None and 1.

    Raises:
        ValueError: A value is not a text, or not a number above 0; names the row.
    """
    tag = columns.get(config.tag_column) if config.tag_column else None
    if tag is not None and (not isinstance(tag, str) or not tag):
        raise ValueError(f"{place}: {config.tag_column} is {tag!r}, but a tag must be text, or left out")
    weight: Any = columns.get(config.weight_column) if config.weight_column else 1.0
    if isinstance(weight, str):  # as in a CSV file
        with contextlib.suppress(ValueError):
            weight = float(weight)
    is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not is_number or not math.isfinite(weight) or weight <= 0:
        raise ValueError(f"{place}: {config.weight_column} is {weight!r}, but a weight must be a number above 0")
    return Traits(tag, float(weight))


def check_draw(prompts: Sequence[Prompt], config: PromptsConfig) -> None:
    """Check that the prompts can be drawn as configured.

    Raises:
        ValueError: A column is missing or malformed, or a tag has too few prompts; one line with the remedy.
    """
    for key in ("tag_column", "weight_column"):
        name = getattr(config, key)
        if name and not any(name in prompt.columns for prompt in prompts):
            raise ValueError(f"prompts.{key} = {name}: no row of {config.train} has such a column: leave it out")
    named = {prompt.prompt_id: f"{prompt.place or prompt.prompt_id}" for prompt in prompts}
    traits = {
        prompt.prompt_id: traits_of(prompt.columns, config, named[prompt.prompt_id])
        for prompt in prompts
        if config.tag_column or config.weight_column
    }
    if config.tag_shares:
        pools = pools_by_tag({name: each.tag for name, each in traits.items()}, config.tag_shares)
        size = min(config.per_round, len(prompts))
        for tag, quota in quotas(size, config.tag_shares).items():
            if quota > len(pools[tag]):
                what = "prompts of other tags" if tag is None else f"prompts of the tag {tag}"
                raise ValueError(
                    f"prompts.tag_shares asks for {quota} of {size} prompts of a round from {what}, but there are "
                    f"{len(pools[tag])}: change the share, or lower prompts.per_round"
                )


def pools_by_tag(tags: Mapping[str, str | None], shares: Mapping[str, float]) -> dict[str | None, list[str]]:
    """Return the prompts of each tag that has a share, and under None all others."""
    pools: dict[str | None, list[str]] = {**{tag: [] for tag in shares}, None: []}
    for name, tag in tags.items():
        pools[tag if tag in shares else None].append(name)
    return pools


def quotas(size: int, shares: Mapping[str, float]) -> dict[str | None, int]:
    """Return how many of a round's prompts each tag gets, and under None the others; they add up to `size`.

    Fractions go to the largest ones first (the method of the largest remainder), and to the earlier of equals.
    """
    wanted: dict[str | None, float] = {tag: share * size for tag, share in shares.items()}
    wanted[None] = max(size - math.fsum(wanted.values()), 0.0)
    # Shares such as 0.1 are no binary fractions: what is whole but for rounding is whole.
    counts = {tag: math.floor(count + 1e-9) for tag, count in wanted.items()}
    left = size - sum(counts.values())
    for tag in sorted(wanted, key=lambda tag: counts[tag] - wanted[tag])[:left]:
        counts[tag] += 1
    return counts


def draw_by_weight(weights: Mapping[str, float], *, round: int, per_round: int, seed: int) -> list[str]:
    """Draw a round's prompts so that over the rounds a prompt comes up as often as its weight says.

    Each round takes the prompts that have been drawn least often for their weight, none twice. With equal weights that
    is a draw without replacement until the pool is used up.

    Args:
        weights: Weight of each prompt, above 0, by its id; their order does not matter.
        round: Index of the round, from 1.
        per_round: Number of prompts to draw; the whole pool if it is smaller.
        seed: The campaign's seed.
    """
    times: Counter[str] = Counter()

    def place(name: str) -> tuple[float, str]:
        return (times[name] + 1) / weights[name], place_in_pass(name, seed=seed, passes=times[name])

    drawn: list[str] = []
    for _ in range(round):
        drawn = sorted(weights, key=place)[:per_round]
        times.update(drawn)
    return drawn


def count_tags(tags: Iterable[str | None]) -> dict[str, int]:
    """Count prompts by tag, most first; those without one under an empty text."""
    return {tag or "": count for tag, count in Counter(tags).most_common()}
