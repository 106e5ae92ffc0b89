"""What some models want said otherwise in a request, learnt from what they refuse."""

import logging
from typing import Any

log = logging.getLogger(__name__)


class Dialect:
    """Rewrites requests for one model."""

    def __init__(self) -> None:
        self._completion_tokens = self._own_temperature = False

    def spoken(self, body: dict[str, Any]) -> dict[str, Any]:
        """The request as this model takes it."""
        spoken = dict(body)
        if self._completion_tokens:
            spoken["max_completion_tokens"] = spoken.pop("max_tokens")
        if self._own_temperature:
            del spoken["temperature"]
        return spoken

    def learn(self, refusal: str) -> None:
        """Takes a hint from the message of a refused request: reasoning models count their thoughts, and take no temperature."""
        if "max_completion_tokens" in refusal:
            self._completion_tokens = True
        elif "temperature" in refusal and "support" in refusal and not self._own_temperature:
            self._own_temperature = True
            log.warning("the endpoint takes no temperature: the model answers at its own, and not always alike")
