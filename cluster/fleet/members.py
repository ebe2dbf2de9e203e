"""The workers of a fleet: their handles, their states, and which of them wait for a request."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from actors.messages import Published
from cluster.run_state.status import WorkerStatus

READY = "ready"
"""A method that every worker has: it returns once the worker has started."""


class WorkerLostError(RuntimeError):
    """The worker's process was killed, hangs, or is on a lost node: no error of its program."""


class WorkerExitedError(RuntimeError):
    """The worker's program ended its own process; the message holds the exit code."""


class Handle(Protocol):
    """A reference to one worker: a Ray actor in production, a plain object in tests."""

    async def wait_until_placed(self) -> None:
        """Wait until the worker has a process. Raises WorkerLostError if it cannot have one."""
        ...

    def missing(self) -> str:
        """Return which resources the worker waits for, as a clause; "" if it has them."""
        ...

    async def call(self, method: str, *args: Any) -> Any:  # noqa: ANN401
        """Call a method. Raises WorkerLostError or WorkerExitedError, else what it raises."""
        ...

    async def exit(self) -> None:
        """Let the worker's process end without counting as a failure."""
        ...

    def kill(self) -> None:
        """End the worker's process now. Never raises."""
        ...


@dataclass(eq=False)
class Member:
    """One worker of a fleet, and the fleet's record of it."""

    name: str
    handle: Handle
    start: int = 0
    """Number of workers that the fleet had started before this one."""
    state: Literal["waiting", "starting", "syncing", "serving", "draining"] = "waiting"
    version: object = None
    """The version last synced to it."""
    num_served: int = 0
    serving_since: float | None = None
    """Start of its current request on the monotonic clock; None between requests."""
    worker_loop: asyncio.Task[None] | None = None
    """The task that gives it requests, one after the other."""
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when an idle worker should look for a request, a version or a new state."""
    sync_lock: asyncio.Lock = field(default_factory=asyncio.Lock)


def _label(version: object) -> str:
    """Return a version as `irlign status` shows it: v17 for the policy of step 17."""
    if isinstance(version, Published):
        return f"v{version.version.step}"
    if isinstance(version, tuple):  # a discriminator's: the update's number, ..., the folder
        return f"v{version[0]}"
    return "" if version is None else str(version)


class Members(dict[str, Member]):
    """Workers by name, in the order in which they were started."""

    def __init__(self) -> None:
        super().__init__()
        self._idle: dict[str, Member] = {}

    def staying(self) -> list[Member]:
        """Return the workers that are not draining, the leading one first."""
        return [member for member in self.values() if member.state != "draining"]

    def lead(self) -> Member | None:
        """Return the leading worker: the oldest one that is not draining."""
        return next((member for member in self.values() if member.state != "draining"), None)

    def statuses(self) -> list[WorkerStatus]:
        """Return each worker's name, state, version and number of requests served."""
        return [
            WorkerStatus(m.name, m.state, _label(m.version), m.num_served) for m in self.values()
        ]

    def serving(self) -> list[Member]:
        """Return the workers that have a request now."""
        return [member for member in self.values() if member.serving_since is not None]

    def busy_s(self) -> float:
        """Return the seconds spent so far on current requests, summed over workers."""
        now = time.monotonic()
        return sum(now - (member.serving_since or now) for member in self.serving())

    async def wait(self, member: Member) -> None:
        """Wait until this worker is woken."""
        member.woken.clear()
        self._idle[member.name] = member
        await member.woken.wait()

    def wake(self, *, lead_only: bool = False) -> None:
        """Wake one idle worker: the leading one, or the one that has been idle longest.

        Only one, so that a request costs a fleet of thousands of workers no more than a small one.
        """
        lead = self.lead()
        for name, member in self._idle.items():
            if member is lead or not lead_only:
                del self._idle[name]
                member.woken.set()
                return

    def wake_all(self) -> None:
        """Wake every idle worker."""
        for member in self._idle.values():
            member.woken.set()
        self._idle.clear()
