"""Limits on requests: requests and tokens per minute, and calls and cost per stage. Knows no network."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

from components.config import EndpointConfig
from components.judges.chat.ledger import Ledger, Tokens, cost_of

WINDOW_SECONDS = 60.0


class Sent:
    """A sent amount; it may be corrected when the real amount is known."""

    __slots__ = ("amount", "at")

    def __init__(self, at: float, amount: int) -> None:
        self.at, self.amount = at, amount


class Window:
    """At most `limit` within any minute; a larger amount goes alone."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._sent: deque[Sent] = deque()

    def delay(self, amount: int, now: float) -> float:
        """Return the seconds until `amount` may be sent."""
        while self._sent and self._sent[0].at + WINDOW_SECONDS <= now:
            self._sent.popleft()
        excess = sum(sent.amount for sent in self._sent) + amount - self.limit
        for sent in self._sent:
            if excess <= 0:
                return 0.0
            excess -= sent.amount
            if excess <= 0 or sent is self._sent[-1]:
                return sent.at + WINDOW_SECONDS - now
        return 0.0

    def add(self, amount: int, now: float) -> Sent:
        """Count an amount that is sent now."""
        sent = Sent(now, amount)
        self._sent.append(sent)
        return sent


class RateLimits:
    """Delay requests by an endpoint's limits, and by the pauses that a busy endpoint asks for."""

    def __init__(
        self,
        endpoint: EndpointConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._requests = Window(endpoint.requests_per_minute) if endpoint.requests_per_minute else None
        self._tokens = Window(endpoint.tokens_per_minute) if endpoint.tokens_per_minute else None
        self._clock, self._sleep = clock, sleep
        self._paused_until = clock()

    async def admit(self, tokens: int) -> Sent:
        """Wait until a request of about `tokens` tokens may be sent, and count it."""
        while (seconds := self._delay(tokens)) > 0:
            await self._sleep(seconds)
        now = self._clock()
        if self._requests is not None:
            self._requests.add(1, now)
        return Sent(now, tokens) if self._tokens is None else self._tokens.add(tokens, now)

    def pause(self, seconds: float) -> None:
        """Send nothing for `seconds`."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    def _delay(self, tokens: int) -> float:
        now = self._clock()
        delays = [self._paused_until - now]
        if self._requests is not None:
            delays.append(self._requests.delay(1, now))
        if self._tokens is not None:
            delays.append(self._tokens.delay(tokens, now))
        return max(delays)


ROUNDING = 1e-9


class BudgetUsedUp(Exception):
    """The next call may exceed a limit; the message names the limit and how much of it is used."""


class Budget:
    """Admit calls only if they certainly stay within `max_calls` and `max_cost`, over all starts of the stage."""

    def __init__(self, endpoint: EndpointConfig, ledger: Ledger) -> None:
        self._endpoint, self._ledger = endpoint, ledger
        self._calls, self._cost = 0, 0.0
        self._returned = asyncio.Condition()

    async def admit(self, input_tokens: int) -> float:
        """Reserve a call; wait for the calls in flight if they may still leave room for it.

        Args:
            input_tokens: Estimated tokens of the prompt.

        Returns:
            The upper bound of the call's cost, for `settle`.

        Raises:
            BudgetUsedUp: The budget has no room for the call.
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
        """Release a reservation; the ledger holds the call's real cost by now."""
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
