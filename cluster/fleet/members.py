"""One worker somewhere, as the fleet that owns it sees it."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from actors.messages import Published
from cluster.run_state.status import MemberStatus

READY = "ready"
"""The method that every worker answers once it has started."""


class WorkerLostError(RuntimeError):
    """The worker's process is gone, or has never come up."""


class Handle(Protocol):
    """One worker somewhere. Ray's actor in production, a plain object in tests."""

    async def placed(self) -> None:
        """Wait until the worker has a process. Raises WorkerLostError if it will have none."""
        ...

    async def call(self, method: str, *args: Any) -> Any:  # noqa: ANN401
        """Call a method. Raises WorkerLostError if the worker is gone, else what it raises."""
        ...

    async def leave(self) -> None:
        """Let the worker end by itself."""
        ...

    def kill(self) -> None:
        """End the worker now. Never raises."""
        ...


@dataclass(eq=False)
class Member:
    """A worker and what its fleet knows of it."""

    name: str
    handle: Handle
    state: Literal["waiting", "starting", "syncing", "serving", "draining"] = "waiting"
    version: object = None
    num_served: int = 0
    serving_since: float | None = None
    """Since when it works on a request, on the monotonic clock."""
    worker_loop: asyncio.Task[None] | None = None
    """What keeps it busy."""
    has_news: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it should look again at what there is to do."""
    one_sync_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)


def _label(version: object) -> str:
    """Return a version as people say it: v17 for the policy of step 17."""
    if isinstance(version, Published):
        return f"v{version.version.step}"
    if isinstance(version, tuple):  # a number, and where that version lies
        return f"v{version[0]}"
    return "" if version is None else str(version)


class Members(dict[str, Member]):
    """Workers by name, in the order in which they were started."""

    def __init__(self) -> None:
        super().__init__()
        self._resting: dict[str, Member] = {}

    def staying(self) -> list[Member]:
        """Return the workers that are not on their way out, the leading one first."""
        return [member for member in self.values() if member.state != "draining"]

    def lead(self) -> Member | None:
        """Return the longest-serving worker that is not on its way out."""
        return next((member for member in self.values() if member.state != "draining"), None)

    def statuses(self) -> list[MemberStatus]:
        """Return each worker's name, state, version and requests served."""
        return [
            MemberStatus(m.name, m.state, _label(m.version), m.num_served) for m in self.values()
        ]

    def serving(self) -> list[Member]:
        """Return the workers that are in the middle of a request."""
        return [member for member in self.values() if member.serving_since is not None]

    def busy_s(self) -> float:
        """Return the seconds that all workers have spent on the requests they are in."""
        now = time.monotonic()
        return sum(now - (member.serving_since or now) for member in self.serving())

    async def wait(self, member: Member) -> None:
        """Wait until this worker is roused."""
        member.has_news.clear()
        self._resting[member.name] = member
        await member.has_news.wait()

    def wake(self, *, lead_only: bool = False) -> None:
        """Rouse one resting worker: the leading one, or whoever has rested longest.

        One alone, for a fleet of thousands would otherwise look up at every request.
        """
        lead = self.lead()
        for name, member in self._resting.items():
            if member is lead or not lead_only:
                del self._resting[name]
                member.has_news.set()
                return

    def rouse_all(self) -> None:
        """Rouse every resting worker."""
        for member in self._resting.values():
            member.has_news.set()
        self._resting.clear()
