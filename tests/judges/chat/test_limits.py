"""Rate limits per minute, on a fake clock."""

import asyncio
import random

import pytest

from components.config import EndpointConfig
from components.judges.chat.limits import RateLimits, Sent, Window


class Clock:
    """A clock that advances only in `sleep`."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


def admitted(clock: Clock, *amounts: int, **limits: int) -> list[float]:
    """Return the times at which requests of these tokens are sent, each as early as possible."""
    rate = RateLimits(EndpointConfig(**limits), clock=clock, sleep=clock.sleep)

    async def run() -> list[float]:
        return [(await rate.admit(amount)).at for amount in amounts]

    return asyncio.run(run())


def test_limits_none_delay_nothing() -> None:
    assert admitted(Clock(), 10**9, 10**9) == [0, 0]


def test_limits_requests_a_minute_let_the_next_go_a_minute_after_the_first() -> None:
    assert admitted(Clock(), 1, 1, 1, 1, 1, requests_per_minute=2) == [0, 0, 60, 60, 120]


def test_limits_tokens_a_minute_wait_until_enough_have_passed() -> None:
    assert admitted(Clock(), 60, 30, 20, 50, tokens_per_minute=100) == [0, 0, 60, 60]


def test_limits_request_larger_than_the_limit_goes_alone() -> None:
    assert admitted(Clock(), 10, 500, 10, tokens_per_minute=100) == [0, 60, 120]


@pytest.mark.parametrize("seed", range(5))
def test_limits_no_minute_ever_holds_more(seed: int) -> None:
    chance, window, now, sent = random.Random(seed), Window(100), 0.0, []
    for _ in range(300):
        amount = chance.randint(1, 60)
        now += max(0.0, window.delay(amount, now)) + chance.random()
        sent.append(window.add(amount, now))
    for last in sent:
        assert sum(one.amount for one in sent if last.at - 60 < one.at <= last.at) <= 100


def test_limits_correction_makes_room() -> None:
    window = Window(100)
    first: Sent = window.add(90, 0.0)
    assert window.delay(50, 1.0) == 59.0
    first.amount = 30
    assert window.delay(50, 1.0) == 0.0


def test_limits_silence_holds_everything_back() -> None:
    clock = Clock()
    rate = RateLimits(EndpointConfig(), clock=clock, sleep=clock.sleep)
    rate.pause(5)
    rate.pause(2)
    assert asyncio.run(rate.admit(1)).at == 5
