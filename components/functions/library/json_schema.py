"""Check that a response is JSON that satisfies the schema of the prompt's row."""

import json
import re
from typing import Any

from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for
from referencing.jsonschema import EMPTY_REGISTRY

FENCE = re.compile(r"\s*```(?:json)?\s*\n(.*)\n\s*```\s*", re.DOTALL)


def score(response: str, schema: dict[str, Any] | str | bool | None, fenced: bool = True) -> float | None:
    """Return 1 if a response is JSON that satisfies a schema, else 0.

    Args:
        response: The response.
        schema: The column or argument `schema`: a JSON schema, or its text. Null does not apply.
        fenced: Whether the JSON may stand in a Markdown code block that is the whole response.

    Raises:
        ValueError: The schema is not one, so the verdict is invalid.
    """
    if schema is None:
        return None
    rules = json.loads(schema) if isinstance(schema, str) else schema
    checker = validator_for(rules)
    try:
        checker.check_schema(rules)
    except SchemaError as error:
        raise ValueError(f"the column schema is not a JSON schema: {error.message}") from None
    block = FENCE.fullmatch(response) if fenced else None
    try:
        value = json.loads(block.group(1) if block else response, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return 0.0
    # Without a registry, a reference to another address would be fetched.
    return float(checker(rules, registry=EMPTY_REGISTRY).is_valid(value))


def _refuse(constant: str) -> None:
    """Refuse NaN and infinities, which Python reads although JSON has none."""
    raise ValueError(constant)
