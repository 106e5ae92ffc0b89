"""How much may go out a minute, in requests and in tokens. Knows no network."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

from components.config import EndpointConfig

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

    def silence(self, seconds: float) -> None:
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
