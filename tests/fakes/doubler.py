"""A worker that doubles numbers, and fleets of it."""

import asyncio

from cluster.fleet.fleet import Fleet, Reports


class Doubler:
    """Doubles numbers; a call waits at the gate while the test keeps it closed."""

    def __init__(self, number):
        self.number = number
        self.version = None
        self.started = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def double(self, value):
        self.started.append(value)
        await self.gate.wait()
        return 2 * value

    async def version_now(self):
        return self.version

    async def who(self):
        return self.number

    async def refuse(self, value):
        raise ValueError(f"{value} is refused")

    async def load(self, version):
        self.version = version


def make_fleet(factory, size, *, timeout_s=5.0, events=None, pauses=None, keeps=False, **settings):
    async def sync(handle, version):
        await handle.call("load", version)

    async def pause(seconds):
        if pauses is not None:
            pauses.append(seconds)

    reports = Reports((events if events is not None else []).append)._replace(**settings)
    fleet = Fleet(
        "doubler",
        factory,
        timeout_s=timeout_s,
        sync=sync,
        syncs_while_serving=keeps,
        reports=reports,
        pause=pause,
    )
    fleet.scale(size)
    return fleet


async def turns(count=50):
    """Let every coroutine that can move, move."""
    for _ in range(count):
        await asyncio.sleep(0)
