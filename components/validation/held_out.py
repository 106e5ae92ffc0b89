"""The choice of the prompts for evaluation, which are then not trained on. Pure."""

from collections.abc import Iterable
from hashlib import sha256


def evaluation_prompts(contents: Iterable[str], *, share: float, seed: int) -> set[str]:
    """Choose a share of the prompts for evaluation, by content and seed alone.

    Args:
        contents: Content keys of the prompts; repeats count once.
        share: Share of the distinct prompts, in [0, 1); the number of prompts is rounded.
        seed: The stage's seed.
    """
    ranked = sorted(set(contents), key=lambda content: sha256(f"{seed}/{content}".encode()).digest())
    return set(ranked[: round(share * len(ranked))])
