"""Which prompts are evaluated on in place of being trained on. Pure."""

from collections.abc import Iterable
from hashlib import sha256


def evaluation_prompts(contents: Iterable[str], *, share: float, seed: int) -> set[str]:
    """The share of prompts that are evaluated on, chosen by content and seed alone.

    Args:
        contents: Content keys of the prompts; repeats count once.
        share: In [0, 1); the number is rounded.
        seed: The stage's seed.
    """
    ranked = sorted(set(contents), key=lambda content: sha256(f"{seed}/{content}".encode()).digest())
    return set(ranked[: round(share * len(ranked))])
