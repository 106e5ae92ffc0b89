"""Runs asynchronous work in a thread of its own, while the waiting thread keeps ticking."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import wait
from typing import Any, TypeVar

TICK_SECONDS = 0.5
GRACE_SECONDS = 15.0
"""How long work under way may go on after a failure: it may be paid for."""

Result = TypeVar("Result")


def run_in_background(work: Coroutine[Any, Any, Result], tick: Callable[[], None]) -> Result:
    """Run `work` to its end; raise what `work` or `tick` raises, after cancelling the rest of the work.

    Args:
        work: Runs on an event loop of its own: the calling thread may already be in one, or call code that must not be.
        tick: Called on the calling thread at least twice a second.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="chat", daemon=True)
    thread.start()
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        while not wait([future], timeout=TICK_SECONDS).done:
            tick()
        return future.result()
    finally:
        asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def all_or_none(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Wait for all; if one fails, let the others finish for a while, cancel them, and raise its error."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.gather(*tasks)
    except Exception:
        await asyncio.wait(tasks, timeout=GRACE_SECONDS)
        raise
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
