"""Whether another call may be paid for. Knows no network."""

import asyncio

from components.config import EndpointConfig
from components.judges.chat.ledger import Ledger
from components.judges.chat.usage import Tokens, cost_of

ROUNDING = 1e-9


class BudgetUsedUp(Exception):
    """The next call may go beyond a limit; the message names it and what was used."""


class Budget:
    """Admits calls as far as `max_calls` and `max_cost` surely reach, over all starts of the stage."""

    def __init__(self, endpoint: EndpointConfig, ledger: Ledger) -> None:
        self._endpoint, self._ledger = endpoint, ledger
        self._calls, self._cost = 0, 0.0
        self._returned = asyncio.Condition()

    async def admit(self, input_tokens: int) -> float:
        """Reserves a call, once those that are under way leave room for it.

        Args:
            input_tokens: About how long its prompt is.

        Returns:
            What it may cost at most, to be given to `settle`.

        Raises:
            BudgetUsedUp: There is no room for it.
        """
        cost = cost_of(self._endpoint, Tokens(input_tokens, self._endpoint.max_tokens)) or 0.0
        async with self._returned:
            while (exceeded := self._exceeded(cost)) is not None:
                if not self._calls:
                    raise BudgetUsedUp(exceeded)
                await self._returned.wait()
            self._calls += 1
            self._cost += cost
        return cost

    async def settle(self, cost: float) -> None:
        """Gives a reservation back; what the call really took is in the ledger by now."""
        async with self._returned:
            self._calls -= 1
            self._cost -= cost
            self._returned.notify_all()

    def _exceeded(self, cost: float) -> str | None:
        limits, used = self._endpoint, self._ledger.usage
        if limits.max_calls and used.calls + self._calls + 1 > limits.max_calls:
            return f"{used.calls} calls of endpoint.max_calls = {limits.max_calls}"
        spent = self._ledger.cost_at_most
        if limits.max_cost and spent + self._cost + cost > limits.max_cost * (1 + ROUNDING):
            return f"{spent:.4g} of endpoint.max_cost = {limits.max_cost:g}"
        return None
