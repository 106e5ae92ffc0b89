"""Runs asynchronous work in a thread of its own, while the thread that waits for it goes on ticking."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import wait
from typing import Any, TypeVar

TICK_SECONDS = 0.5

Result = TypeVar("Result")


def run_in_background(work: Coroutine[Any, Any, Result], tick: Callable[[], None]) -> Result:
    """Runs `work` to its end; what it raises, and what `tick` raises, is raised here, and nothing of it goes on then.

    Args:
        work: What is done, on an event loop of its own: the calling thread may be within one already, or call what must
            not be.
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


async def all_or_none(several: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Waits for all; when one fails, the others are cancelled and its error is raised."""
    tasks = [asyncio.ensure_future(one) for one in several]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
