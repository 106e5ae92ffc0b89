"""The share of sampled responses that break the configured rules.

The same rules constrain the training; here they are checked on samples.
"""

from collections.abc import Callable, Mapping, Sequence

from components.config import ConstraintsConfig
from components.generation.responses import Response


def violation_shares(
    responses: Mapping[str, Sequence[Response]], constraints: ConstraintsConfig
) -> dict[str, dict[str, float]]:
    """Return the share of each model's responses that break each rule.

    Args:
        responses: Sampled responses by model, at least one each.
        constraints: The constraints section.

    Returns:
        By rule and model, a share in [0, 1]; rules that are not configured are left out.
    """
    rules: dict[str, Callable[[Response], bool]] = {}
    if constraints.banned_phrases:
        rules["banned_phrases"] = lambda response: any(phrase in response.text for phrase in constraints.banned_phrases)
    if constraints.max_tokens:
        rules["max_tokens"] = lambda response: (
            len(response.token_ids) - (response.finish_reason == "stop" and not response.stopped_by_text)
            > constraints.max_tokens
        )
    return {
        name: {model: sum(map(breaks, sampled)) / len(sampled) for model, sampled in responses.items()}
        for name, breaks in rules.items()
    }
