"""The running stage in words: step, speed, time left and memory, and one line a minute where nobody sees a bar.

Knows no display: who wants the lines passes a function that takes them.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator

import psutil

from components.runtime.ticking import every

PROGRESS_VARIABLE = "RATCHET_PROGRESS_SECONDS"
LINE_SECONDS = 60.0
BETWEEN_STAGES = "between stages"


def line_seconds() -> float:
    """Return the seconds between two lines: RATCHET_PROGRESS_SECONDS, else one minute.

    Raises:
        ValueError: The variable is not a positive number.
    """
    text = os.environ.get(PROGRESS_VARIABLE, str(LINE_SECONDS))
    with contextlib.suppress(ValueError):
        # An upper bound, because a thread cannot wait for ever; it is false for NaN too.
        if 0 < float(text) <= threading.TIMEOUT_MAX:
            return float(text)
    raise ValueError(f"{PROGRESS_VARIABLE} = {text!r} is not a positive number of seconds: set one such as 60")


class StageWatch:
    """Follow the running stage; a `components.runtime.progress.Listener`.

    A stage may count several things one after the other, such as prompts and then steps. Each count starts its own
    speed: where it begins again, or has another total.
    """

    def __init__(self) -> None:
        self.round = self.stage = self.text = ""
        self.done = self.total = 0
        self.since = time.monotonic()
        self._first: tuple[float, int] | None = None
        """Time and units of the first report of the present count."""
        self._last = 0.0

    def began(self, round: str, stage: str) -> None:
        """Note that a stage begins."""
        self.round, self.stage, self.text = round, stage, ""
        self.done, self.total, self.since, self._first = 0, 0, time.monotonic(), None

    def advanced(self, done: int, total: int, text: str) -> None:
        """Note how far the stage is."""
        now = time.monotonic()
        if self._first is None or total != self.total or done < self.done:
            self._first = (now, done)
        self.done, self.total, self.text, self._last = done, total, text, now

    def ended(self, round: str, stage: str, seconds: float, *, already_done: bool) -> None:
        """Note that a stage is published; what follows until the next one counts as between stages."""
        self.began(round, "")

    @property
    def name(self) -> str:
        """Round and stage, in columns."""
        return f"{self.round}  {self.stage or BETWEEN_STAGES:<22}"

    def facts(self) -> str:
        """Return step, speed, time left, memory and the latest measured fact, as far as they are known."""
        now = time.monotonic()
        memory = f"memory {_memory_bytes() / 2**30:.1f} GiB"
        facts = [f"{duration(now - self.since)} so far", memory]
        if self.total:
            facts = [f"{self.done} of {self.total}", *self._pace(now), memory]
        return ", ".join([*facts, *([self.text] if self.text else [])])

    def _pace(self, now: float) -> list[str]:
        """Return speed and time left of the present count; before its second report there is none to tell."""
        assert self._first is not None
        seconds, units = self._last - self._first[0], self.done - self._first[1]
        if seconds <= 0 or units <= 0:
            return [f"{duration(now - self.since)} so far"]
        left = max(0.0, (self.total - self.done) * seconds / units - (now - self._last))
        return [f"{units / seconds:.3g} a second", f"about {duration(left)} left"]


def duration(seconds: float) -> str:
    """Return a span of time in words, such as `45 s`, `12 min` or `3 h 05 min`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"


@contextlib.contextmanager
def saying(watch: StageWatch, say: Callable[[str], None]) -> Iterator[None]:
    """Call `say` with a line about the running stage at every `line_seconds`, from a thread, until the block ends.

    The clock is a thread's and not the stage's, so a stage that reports nothing, such as one that downloads a model,
    has its lines too.
    """
    seconds = line_seconds()

    def tick() -> None:
        if watch.stage or time.monotonic() - watch.since >= seconds:
            say(f"{watch.name}{watch.facts()}")

    with every(seconds, tick):
        yield


def _memory_bytes() -> int:
    # Child processes share pages, so the sum may exceed what the machine really uses; too high a number warns early.
    num_bytes = 0
    this_process = psutil.Process()
    for process in (this_process, *this_process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            num_bytes += process.memory_info().rss
    return num_bytes
