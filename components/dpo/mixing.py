"""Weights and shares of the kinds of preferences (tags), so that one kind cannot drown another.

Knows no model and no batch.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import torch

from components.data.funnel import counted, step, too_little


def tag_weights(tags: Sequence[str], weights: Mapping[str, float]) -> list[float]:
    """Return the weight of each pair's loss; a tag that is not named counts 1.

    The mean over the pairs is 1, so the learning rate keeps its meaning.

    Args:
        tags: Tag of each pair.
        weights: Weight by tag, not negative.

    Raises:
        ValueError: A named tag has no pair, or every pair has weight 0.
    """
    _refuse_unknown(tags, weights, "training.tag_weights")
    raw = [weights.get(tag, 1.0) for tag in tags]
    mean = sum(raw) / len(raw)
    if mean == 0:
        raise ValueError("training.tag_weights gives every pair the weight 0: give at least one tag a weight above 0")
    return [weight / mean for weight in raw]


def combined_weights(*factors: Sequence[float]) -> list[float]:
    """Return the product of several weights of each pair, scaled to a mean of 1.

    Args:
        factors: Each holds the weight of each pair for one reason, such as its tag or its age; not all products are 0.
    """
    products = [math.prod(several) for several in zip(*factors, strict=True)]
    mean = math.fsum(products) / len(products)
    return [product / mean for product in products]


def mixed_order(tags: Sequence[str], shares: Mapping[str, float], *, seed: int) -> list[int]:
    """Return the pairs of one epoch in their order, with the configured share of each tag.

    There are as many places as pairs. Tags that are not named divide what the shares leave in proportion to their
    pairs. A tag with more places than pairs repeats its pairs, each as often as the others give or take one. A tag with
    fewer places leaves some pairs for another epoch's draw.

    Args:
        tags: Tag of each pair.
        shares: Share of the places by tag, in [0, 1]; together at most 1. Empty takes every pair once.
        seed: Seed of this epoch.

    Raises:
        ValueError: A named tag has no pair, or the shares cannot be met.
    """
    generator = torch.Generator().manual_seed(seed)
    if not shares:
        return torch.randperm(len(tags), generator=generator).tolist()
    _refuse_unknown(tags, shares, "training.tag_shares")
    order: list[int] = []
    for tag, places in _places(tags, shares).items():
        mine = [index for index, own in enumerate(tags) if own == tag]
        while places > 0:
            drawn = torch.randperm(len(mine), generator=generator).tolist()[:places]
            order += [mine[index] for index in drawn]
            places -= len(drawn)
    return [order[index] for index in torch.randperm(len(order), generator=generator).tolist()]


def _places(tags: Sequence[str], shares: Mapping[str, float]) -> dict[str, int]:
    """Return the places of each tag; they add up to the number of pairs."""
    counts = Counter(tags)
    rest = {tag: count for tag, count in counts.items() if tag not in shares}
    left = 1.0 - sum(shares.values())
    if left < -1e-9 or (not rest and left > 1e-9):
        raise ValueError(
            f"training.tag_shares adds up to {1 - left:g}: it must be 1 if it names every tag, and at most 1 otherwise"
        )
    wanted = {
        tag: shares[tag] if tag in shares else left * count / sum(rest.values())
        for tag, count in sorted(counts.items())
    }
    exact = {tag: share * len(tags) for tag, share in wanted.items()}
    places = {tag: int(number) for tag, number in exact.items()}
    by_remainder = sorted(exact, key=lambda tag: (places[tag] - exact[tag], tag))
    for tag in by_remainder[: len(tags) - sum(places.values())]:
        places[tag] += 1
    return places


def _refuse_unknown(tags: Sequence[str], named: Mapping[str, float], key: str) -> None:
    unknown = sorted(set(named) - set(tags))
    if unknown:
        headline = f"{key} names {', '.join(unknown)}, but no training pair has that tag"
        raise ValueError(
            too_little(
                headline,
                [step(len(tags), "training pairs", counted({f"tag {tag}": n for tag, n in Counter(tags).items()}, {}))],
                otherwise=f"take it out of {key}, or name pairs that have it",
            )
        )
