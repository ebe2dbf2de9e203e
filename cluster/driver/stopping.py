"""Work that ends early: when a stop of the run is requested, or when a fleet has failed."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from cluster.fleet.fleet import Fleet

T = TypeVar("T")


class StopRequestedError(RuntimeError):
    """A stop was requested, so this work was abandoned; it changed no weights."""


async def unless_stopped(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of work; cancel it when a stop is requested.

    Raises:
        StopRequestedError: if a stop is requested before the work is done.
    """
    if stop.is_set():
        work.close()
        raise StopRequestedError("a stop was requested")
    working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise StopRequestedError("a stop was requested")
        return working.result()
    finally:
        working.cancel()
        stopping.cancel()


async def unless_a_fleet_fails(fleets: Sequence[Fleet], work: Coroutine[Any, Any, T]) -> T:
    """Return the result of work; cancel it when a fleet fails, although nothing waits for it yet.

    Raises:
        FleetFailedError: if a fleet failed before the work was done.
    """
    working = asyncio.ensure_future(work)
    failing = [asyncio.ensure_future(fleet.failure()) for fleet in fleets]
    try:
        await asyncio.wait({working, *failing}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise next(failure.result() for failure in failing if failure.done())
        return working.result()
    finally:
        for task in (working, *failing):
            task.cancel()
        await asyncio.gather(working, *failing, return_exceptions=True)
