"""How many answers break the configured rules.

The same rules that training is constrained by, looked at in what is really sampled.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from components.config import ConstraintsConfig


class Sampled(Protocol):
    """What is looked at of a sampled response."""

    @property
    def text(self) -> str:
        """The response."""

    @property
    def token_ids(self) -> Sequence[int]:
        """Its tokens, the end token included where it has one."""

    @property
    def finish_reason(self) -> str:
        """`stop` where it ended by itself."""


def violation_shares(
    responses: Mapping[str, Sequence[Sampled]], constraints: ConstraintsConfig
) -> dict[str, dict[str, float]]:
    """Share of each model's responses that break each rule.

    Args:
        responses: Sampled responses by model, at least one each.
        constraints: The constraints section.

    Returns:
        By rule and model, a share in [0, 1]; rules that are not configured are left out.
    """
    rules: dict[str, Callable[[Sampled], bool]] = {}
    if constraints.banned_phrases:
        rules["banned_phrases"] = lambda one: any(phrase in one.text for phrase in constraints.banned_phrases)
    if constraints.max_tokens:
        rules["max_tokens"] = lambda one: len(one.token_ids) - (one.finish_reason == "stop") > constraints.max_tokens
    return {
        name: {model: sum(map(breaks, several)) / len(several) for model, several in responses.items()}
        for name, breaks in rules.items()
    }
