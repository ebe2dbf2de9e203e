"""A worker in this process, behind the handle that a fleet expects."""

import asyncio
import inspect
import itertools

from cluster.fleet.members import READY, WorkerLostError


class LocalHandle:
    """Calls a plain object; a test can kill it, as a process can be killed."""

    def __init__(self, worker):
        self.worker = worker
        self.is_alive = True
        self.has_exited = False
        self.is_placed = asyncio.Event()
        self.is_placed.set()
        self.calls = []
        self.waits_for = []

    async def wait_until_placed(self):
        await self.is_placed.wait()
        if not self.is_alive:
            raise WorkerLostError("the process is gone")

    def missing(self):
        return self.waits_for.pop(0) if self.waits_for else ""

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

    async def exit(self):
        self.has_exited = True
        self.is_alive = False

    def kill(self):
        self.is_alive = False


class WorkerFactory:
    """Starts workers for a fleet and keeps their handles by name."""

    def __init__(self, build):
        self._build = build
        self._numbers = itertools.count()
        self.handles = {}
        self.has_resources = True

    def __call__(self, name):
        handle = self.handles[name] = LocalHandle(self._build(next(self._numbers)))
        if not self.has_resources:
            handle.is_placed.clear()
            handle.waits_for = ["", "1 GPU", "1 GPU"]
        return handle
