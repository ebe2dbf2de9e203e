"""A worker in this process, behind the handle that a fleet expects."""

import asyncio
import inspect
import itertools

from cluster.fleet.members import READY, WorkerLostError


class LocalHandle:
    """Calls a plain object. It can be killed from outside, as a process can."""

    def __init__(self, worker):
        self.worker = worker
        self.is_alive = True
        self.has_left = False
        self.has_room = asyncio.Event()
        self.has_room.set()
        self.calls = []

    async def placed(self):
        await self.has_room.wait()
        if not self.is_alive:
            raise WorkerLostError("the process is gone")

    async def call(self, method, *args):
        if not self.is_alive:
            raise WorkerLostError("the process is gone")
        if method == READY:
            return 0
        self.calls.append(method)
        result = getattr(self.worker, method)(*args)
        if inspect.isawaitable(result):
            result = await result
        if not self.is_alive:
            raise WorkerLostError("the process died during the call")
        return result

    async def leave(self):
        self.has_left = True
        self.is_alive = False

    def kill(self):
        self.is_alive = False


class Workshop:
    """Makes workers for a fleet and keeps every handle it gave out."""

    def __init__(self, build):
        self._build = build
        self._numbers = itertools.count()
        self.handles = {}
        self.has_room = True

    def __call__(self, name):
        handle = self.handles[name] = LocalHandle(self._build(next(self._numbers)))
        if not self.has_room:
            handle.has_room.clear()
        return handle
