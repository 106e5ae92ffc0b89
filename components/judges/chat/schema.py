"""The part of JSON schema that questions use: how a value breaks it, and its closed form. Pure."""

import json
from collections.abc import Iterator
from typing import Any

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
}


def violations(value: Any, schema: dict[str, Any], name: str) -> Iterator[str]:
    """Yield how a value breaks its schema: type, enum, bounds, required keys, and the same for the values in it."""
    expected = schema.get("type")
    if expected is not None and (
        not isinstance(value, TYPES[expected]) or (isinstance(value, bool) and expected != "boolean")
    ):
        yield f"{name} is no {expected}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{name} is {_short(value)}, and must be one of {json.dumps(schema['enum'])}"
    if "minimum" in schema and value < schema["minimum"]:
        yield f"{name} is {value}, below {schema['minimum']}"
    if "maximum" in schema and value > schema["maximum"]:
        yield f"{name} is {value}, above {schema['maximum']}"
    if isinstance(value, dict):
        for key in schema.get("required", ()):
            if key not in value:
                yield f"the key {key} is missing"
        for key, part in schema.get("properties", {}).items():
            if key in value:
                yield from violations(value[key], part, key)
    if isinstance(value, list) and "items" in schema:
        for item in value:
            yield from violations(item, schema["items"], f"an item of {name}")


def _short(value: Any) -> str:
    return json.dumps(value)[:80]


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with no other keys allowed, as endpoints that enforce a schema require."""
    strict = dict(schema)
    if "properties" in schema:
        strict["properties"] = {key: closed(part) for key, part in schema["properties"].items()}
        strict["additionalProperties"] = False
    if "items" in schema:
        strict["items"] = closed(schema["items"])
    return strict
