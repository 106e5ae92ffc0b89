"""How often somebody may ask: a bucket of tokens per name, in memory. Knows no page."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

MOST_NAMES = 10_000
"""Names that are remembered; the one that asked longest ago is forgotten first."""


class TokenBuckets:
    """Lets each name ask `burst` times at once, and `per_second` times a second in the long run. Safe in threads."""

    def __init__(self, *, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with full buckets.

        Args:
            per_second: Tokens that a bucket gains per second.
            burst: Tokens that a bucket holds at most.
            clock: Seconds, from any start.
        """
        self._per_second, self._burst, self._clock = per_second, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, name: str) -> bool:
        """Take a token from a name's bucket, and return whether there was one."""
        with self._lock:
            now = self._clock()
            tokens, since = self._buckets.pop(name, (float(self._burst), now))
            tokens = min(self._burst, tokens + (now - since) * self._per_second)
            has_one = tokens >= 1
            self._buckets[name] = (tokens - 1 if has_one else tokens, now)
            while len(self._buckets) > MOST_NAMES:
                self._buckets.popitem(last=False)
            return has_one
