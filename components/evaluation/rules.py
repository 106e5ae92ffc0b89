"""The share of sampled responses that break the configured rules.

The same rules constrain the training; here they are checked on samples.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from components.config import ConstraintsConfig
from components.data.columns import Columns
from components.data.messages import Messages
from components.functions.scoring import Sample
from components.functions.violations import violations
from components.generation.responses import Response

log = logging.getLogger(__name__)


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


def judged_violations(
    responses: Mapping[str, Sequence[Response]],
    prompts: Sequence[Messages],
    columns: Sequence[Columns],
    constraints: ConstraintsConfig,
    *,
    scratch: Path,
) -> dict[str, dict[str, float | None]]:
    """Return how far each model's responses break the rule of `constraints.function`, on average.

    Args:
        responses: Sampled responses by model, one to each prompt.
        prompts: The prompts.
        columns: The other columns of the prompts' rows.
        constraints: The constraints section.
        scratch: Directory for what outlives a killed run.

    Returns:
        Under `function`, by model, a mean in [0, 1] over the responses on which the function did not fail; None if it
        failed on all. Empty if no function is configured.
    """
    if not constraints.function:
        return {}
    samples = [
        Sample(messages, response.text, row, tuple(response.token_ids), number)
        for of_model in responses.values()
        for number, (messages, row, response) in enumerate(zip(prompts, columns, of_model, strict=True))
    ]
    found = violations(samples, constraints, scratch=scratch)
    errors = [violation.error for violation in found if violation.error]
    if errors:
        log.warning(
            "constraints.function failed on %d of %d held-out responses, which are left out of its share; the first: "
            "%s",
            len(errors),
            len(found),
            errors[0],
        )
    values = iter(found)
    valid = {
        model: [value for value, _ in (next(values) for _ in of_model) if value is not None]
        for model, of_model in responses.items()
    }
    return {"function": {model: sum(own) / len(own) if own else None for model, own in valid.items()}}
