"""How often, and after how long, a request that failed is tried again."""

from asyncio import sleep

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_exponential, wait_random

from components.judges.chat.endpoint import AttemptFailed

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 120.0


def retrying(max_attempts: int) -> AsyncRetrying:
    """Tries again what failed in a way that may pass; raises the last failure."""
    stop, retry = stop_after_attempt(max_attempts), retry_if_exception_type(AttemptFailed)
    return AsyncRetrying(stop=stop, retry=retry, wait=_wait, sleep=sleep, reraise=True)


def wait_asked_for(failure: AttemptFailed) -> float | None:
    """Seconds that the endpoint asks to wait, as far as it is heeded; None when it asks for nothing."""
    return None if failure.retry_after is None else min(failure.retry_after, LONGEST_WAIT_SECONDS)


def _wait(state: RetryCallState) -> float:
    """Seconds before the next attempt: what the endpoint asks for, else longer each time and by chance."""
    failure = state.outcome.exception() if state.outcome is not None else None
    asked = wait_asked_for(failure) if isinstance(failure, AttemptFailed) else None
    if asked is not None:
        return asked
    growing = wait_exponential(multiplier=FIRST_WAIT_SECONDS, max=LONGEST_WAIT_SECONDS / 2)
    return (growing + wait_random(0, FIRST_WAIT_SECONDS))(state)
