"""The fields of a request: what the config sets, and what a model turns out to refuse. Knows no network."""

import logging
import re
from typing import Any

from components.config import EndpointConfig
from components.data.messages import Messages
from components.judges.chat.failures import ABOUT_THE_PROMPT
from components.judges.chat.form import response_format
from components.judges.chat.texts import mended

log = logging.getLogger(__name__)


def request_body(endpoint: EndpointConfig, messages: Messages, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the request as the config wants it; with `repeat`, it is the identity of a paid answer."""
    fixed = {
        "model": endpoint.model,
        "messages": [{**message, "content": mended(message["content"])} for message in messages],
        "temperature": 0,
        "max_tokens": endpoint.max_tokens,
    }
    body = fixed | response_format(schema, endpoint.output) | endpoint.request_fields
    return {name: value for name, value in body.items() if value is not None}


def identity_of_fields(endpoint: EndpointConfig) -> dict[str, Any]:
    """Return the part of a judge's identity that the fields of its requests are; empty if the config sets none."""
    return {"request_fields": endpoint.request_fields} if endpoint.request_fields else {}


LIMIT, LIMIT_OF_REASONING_MODELS = "max_tokens", "max_completion_tokens"
OPTIONAL = ("temperature",)
"""Fields without which the question is the same, so that they are left out for a model that refuses them."""
OUTPUT_REMEDY = ": set endpoint.output to json_object or text"


class Refusals:
    """The fields that a model refuses, so that a request is sent in the form that it accepts.

    Providers refuse a field in many words: "is deprecated for this model", "only 1 is allowed", "does not support 0",
    "Extra inputs are not permitted". So each message that names a field is tried: the request is sent again without
    it, and only if that is answered is the field left out from then on.
    """

    def __init__(self, refused: frozenset[str] = frozenset()) -> None:
        self._refused = refused

    def adapt(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the request in the form that the model accepts."""
        request = {name: value for name, value in body.items() if name not in self._refused}
        if LIMIT in self._refused and LIMIT in body:
            request[LIMIT_OF_REASONING_MODELS] = body[LIMIT]
        return request

    def suspect(self, request: dict[str, Any], message: str) -> "Refusals | None":
        """Return what is refused if the message means a field of the request; None if it names none."""
        for name in OPTIONAL:
            if name in request and name in message.lower():
                return Refusals(self._refused | {name})
        # A message about the length of the prompt often names the limit too.
        names_the_limit = re.search(r"max_(completion_)?tokens", message) and not ABOUT_THE_PROMPT.search(message)
        return Refusals(self._refused | {LIMIT}) if LIMIT in request and names_the_limit else None

    def with_more(self, others: "Refusals") -> "Refusals":
        """Return both, and log the fields that were not known to be refused, if verdicts may depend on them."""
        for name in sorted((others._refused - self._refused) & set(OPTIONAL)):
            log.warning("the endpoint accepts no %s: the model uses its own, so its answers may vary", name)
        return Refusals(self._refused | others._refused)


def remedy_for(endpoint: EndpointConfig, message: str) -> str:
    """Return what to set if a refusal that every question meets names a field of the request; else nothing."""
    if re.search(r"response[_ ]format|json_(schema|object)|structured output", message, re.IGNORECASE):
        return OUTPUT_REMEDY
    for name in ("temperature", LIMIT, *endpoint.request_fields):
        if re.search(rf"\b{re.escape(name)}\b", message):
            return f": leave it out with endpoint.request_fields: {{{name}: null}}"
    return ""
