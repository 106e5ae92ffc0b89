"""What may go out: requests and tokens per minute, and calls and cost per stage. Knows no network."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

from components.config import EndpointConfig
from components.judges.chat.ledger import Ledger, Tokens, cost_of

WINDOW_SECONDS = 60.0


class Sent:
    """Something that went out; its amount may be corrected when it is known."""

    __slots__ = ("amount", "at")

    def __init__(self, at: float, amount: int) -> None:
        self.at, self.amount = at, amount


class Window:
    """At most `limit` within any minute; something larger goes alone."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._sent: deque[Sent] = deque()

    def delay(self, amount: int, now: float) -> float:
        """Seconds until `amount` may go out."""
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
        """Counts what goes out now."""
        sent = Sent(now, amount)
        self._sent.append(sent)
        return sent


class RateLimits:
    """Lets requests out as an endpoint's limits allow, and as it asks for when it is too busy."""

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
        self._silent_until = clock()

    async def admit(self, tokens: int) -> Sent:
        """Waits until a request of about so many tokens may go out, and counts it."""
        while (seconds := self._delay(tokens)) > 0:
            await self._sleep(seconds)
        now = self._clock()
        if self._requests is not None:
            self._requests.add(1, now)
        return Sent(now, tokens) if self._tokens is None else self._tokens.add(tokens, now)

    def pause(self, seconds: float) -> None:
        """Lets nothing out for so long."""
        self._silent_until = max(self._silent_until, self._clock() + seconds)

    def _delay(self, tokens: int) -> float:
        now = self._clock()
        delays = [self._silent_until - now]
        if self._requests is not None:
            delays.append(self._requests.delay(1, now))
        if self._tokens is not None:
            delays.append(self._tokens.delay(tokens, now))
        return max(delays)


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
