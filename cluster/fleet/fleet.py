"""Many workers of one kind as one object: wanted and actual size, retry, drain, replace.

A fleet knows nothing of what its workers do, nor of Ray. A request goes to whichever worker is
free; if that worker dies or is too slow, the request goes to another, and the worker is replaced. A
worker serves only after it holds the newest weights. The states of a worker:

    waiting -> starting -> syncing -> serving -> draining -> gone

While the cluster has no room for it, it waits without a deadline, since nodes may still come.
A fleet of no workers is paused: requests wait, without a deadline, until it grows again.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from actors.errors import RetryableError
from cluster.fleet import failure_policy
from cluster.fleet.failure_policy import Decision
from cluster.fleet.members import READY, Handle, Member, Members, WorkerLostError
from cluster.fleet.requests import Request, RequestQueue
from cluster.run_state.status import MemberStatus

logger = logging.getLogger(__name__)

LONG_WAIT = 0.2
"""A worker for which there is no room is told of after this part of the time a start may take."""


class FleetFailedError(RuntimeError):
    """A fleet gave up; the message holds the last error."""


class Fleet:
    """Owns its workers' lives and the queue of requests to them.

        fleet = Fleet("rollout", start_worker, timeout_s=600, sync=send_weights)
        fleet.scale(4)
        fleet.announce(published)
        result = await fleet.request("rollout", request)
        await fleet.close()

    Promises: every request ends, in a result or in an error, unless the fleet stays paused; a call
    of a worker has a deadline; a request is never in two workers at once; a worker that leaves on
    purpose finishes first. The longest-serving worker leads, and is the last to leave.
    """

    def __init__(
        self,
        kind: str,
        start: Callable[[str], Handle],
        *,
        timeout_s: float,
        sync: Callable[[Handle, Any], Awaitable[Any]] | None = None,
        syncs_while_serving: bool = False,
        on_event: Callable[[str], None] = logger.warning,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Make a fleet of no workers.

        Args:
            kind: names the workers: rollout-0, rollout-1, ...
            start: starts the worker of this name and returns at once.
            timeout_s: of a start, a sync and a worker's work on a request each.
            sync: gives a worker what was announced; None if its workers hold no weights.
            syncs_while_serving: in the middle of a request too, and not only before the next.
            on_event: told of every loss and restart, in a sentence.
            pause: waits this many seconds before a lost worker is replaced.
        """
        self.kind = kind
        self._start, self._sync, self._on_event, self._pause = start, sync, on_event, pause
        self._timeout_s, self._syncs_while_serving = timeout_s, syncs_while_serving
        self._tasks: set[asyncio.Task[None]] = set()
        self._queue, self._members = RequestQueue(), Members()
        self._busy_s = 0.0
        self._wanted, self._num_started, self._consecutive_losses = 0, 0, 0
        self._newest: object = None
        self._failure: FleetFailedError | None = None

    @property
    def wanted(self) -> int:
        """How many workers there should be."""
        return self._wanted

    @property
    def is_settled(self) -> bool:
        """Whether just the wanted workers are there, all of them past their start."""
        states = [member.state for member in self._members.values()]
        return len(states) == self._wanted and not {"waiting", "starting", "draining"} & set(states)

    @property
    def busy_s(self) -> float:
        """Seconds that all workers together have spent on requests so far."""
        return self._busy_s + self._members.busy_s()

    def status(self) -> list[MemberStatus]:
        """Return each worker's name, state, version and requests served."""
        return self._members.statuses()

    def scale(self, wanted: int) -> None:
        """Change the number of workers. Growing starts some; shrinking lets the newest leave.

        Args:
            wanted: how many there shall be; 0 pauses.

        Raises:
            FleetFailedError: if the fleet has given up or was closed.
        """
        if self._failure:
            raise self._failure
        if self._wanted == 0:
            self._consecutive_losses = 0  # a new beginning
        self._wanted = wanted
        staying = self._members.staying()
        for member in staying[wanted:]:
            self._dismiss(member)
        for _ in range(wanted - len(staying)):
            self._add()
        self._members.rouse_all()

    def announce(self, newest: object) -> None:
        """Make this what every worker must hold before its next request."""
        self._newest = newest
        self._members.rouse_all()
        for member in self._members.serving() if self._syncs_while_serving else ():
            self._spawn(self._sync_while_serving(member))

    def hold(self, version: object) -> None:
        """Say that the leading worker has made this version itself, and announce it."""
        for member in self._members.staying()[:1]:
            member.version = version
        self.announce(version)

    async def request(self, method: str, *args: Any, lead_only: bool = False) -> Any:  # noqa: ANN401
        """Have one worker do this, another one if the first is lost.

        Args:
            args: its arguments, passed on as they are.
            lead_only: only the longest-serving worker may do it.

        Returns:
            What the method returns.

        Raises:
            FleetFailedError: if workers of this kind cannot be kept alive, or the request itself
                takes them down. What the method itself raises is passed on.
        """
        if self._failure:
            raise self._failure
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.put(Request(method, args, lead_only, done))
        self._members.wake(lead_only=lead_only)
        return await done

    async def close(self, patience_s: float = 5.0) -> None:
        """Let every worker finish what it has and leave, for so long, then end what is left."""
        self._wanted = 0
        self._fail(FleetFailedError(f"the {self.kind} fleet was closed"))
        for member in list(self._members.values()):
            self._dismiss(member)
        self._members.rouse_all()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=patience_s)
        for member in self._members.values():
            member.handle.kill()
        for task in self._tasks:
            task.cancel()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _add(self) -> None:
        name = f"{self.kind}-{self._num_started}"
        self._num_started += 1
        member = self._members[name] = Member(name, self._start(name))
        member.worker_loop = self._spawn(self._worker_loop(member))

    def _dismiss(self, member: Member) -> None:
        """Let a worker finish what it has and leave; one that waits for room is gone at once."""
        if member.state == "waiting":
            self._members.pop(member.name)
            member.handle.kill()
            if member.worker_loop:
                member.worker_loop.cancel()
        member.state = "draining"

    async def _worker_loop(self, member: Member) -> None:
        try:
            await self._wait_for_room(member)
            await asyncio.wait_for(member.handle.call(READY), self._timeout_s)
            while request := await self._next_request(member):
                await self._serve(member, request)
            self._members.wake()  # for a request that this one was roused for
            await asyncio.wait_for(member.handle.leave(), self._timeout_s)
            self._members.pop(member.name, None)
        except Exception as error:  # lost, too slow, or unable to start or sync
            await self._replace(member, error)

    async def _wait_for_room(self, member: Member) -> None:
        placed = asyncio.ensure_future(member.handle.placed())
        try:
            done, _ = await asyncio.wait({placed}, timeout=LONG_WAIT * self._timeout_s)
            if not done:
                self._on_event(f"{member.name} still waits for a node that has room for it")
            await placed
        finally:
            placed.cancel()
        member.state = "starting"

    async def _next_request(self, member: Member) -> Request | None:
        """Wait for a request that this worker may serve, keeping it up to date; None: leave."""
        while member.state != "draining":
            if self._sync is not None and member.version != self._newest:
                member.state = "syncing"
                await self._bring_up_to_date(member)
                continue
            member.state = "serving"
            if request := self._queue.take(is_lead=self._members.lead() is member):
                return request
            await self._members.wait(member)
        return None

    async def _bring_up_to_date(self, member: Member) -> None:
        async with member.one_sync_at_a_time:
            while self._sync is not None and member.version != self._newest:
                newest = self._newest
                await asyncio.wait_for(self._sync(member.handle, newest), self._timeout_s)
                member.version = newest

    async def _sync_while_serving(self, member: Member) -> None:
        try:
            await self._bring_up_to_date(member)
        except Exception as error:  # its request ends with it, and goes to another worker
            self._on_event(f"{member.name} could not be brought up to date: {error!r}")
            member.handle.kill()

    async def _serve(self, member: Member, request: Request) -> None:
        request.attempts += 1
        began = member.serving_since = time.monotonic()
        try:
            call = member.handle.call(request.method, *request.args)
            result = await asyncio.wait_for(call, self._timeout_s)
        except (WorkerLostError, TimeoutError, asyncio.CancelledError) as error:
            self._retry(request, error)
            raise
        except RetryableError as error:
            self._retry(request, error)
            return
        except Exception as error:  # the worker is well; its answer is an error
            request.fail(error)
            return
        finally:
            member.serving_since = None
            self._busy_s += time.monotonic() - began
        self._consecutive_losses = 0
        member.num_served += 1
        if not request.done.done():
            request.done.set_result(result)

    def _retry(self, request: Request, error: BaseException) -> None:
        if self._failure:
            request.fail(self._failure)
        elif failure_policy.after_failed_request(request.attempts) is Decision.RETRY:
            self._queue.give_back(request)
            self._members.wake(lead_only=request.lead_only)
        else:
            reason = f"{request.method} failed on {request.attempts} {self.kind} workers: {error!r}"
            request.fail(FleetFailedError(reason))

    async def _replace(self, member: Member, error: Exception) -> None:
        member.handle.kill()
        self._members.pop(member.name, None)
        self._members.rouse_all()  # there is a new leading worker
        reason = str(error) or f"no answer in {self._timeout_s:.0f} s"
        if member.state == "draining":
            self._on_event(f"{member.name} lost on its way out ({reason})")
            return
        if member.num_served:  # many that worked and are lost at once are no crash loop
            self._consecutive_losses = 0
        self._consecutive_losses += 1
        restart = failure_policy.after_lost_worker(self._consecutive_losses)
        if restart.decision is Decision.STOP:
            count = self._consecutive_losses
            text = f"{count} {self.kind} workers in a row failed without finishing a request"
            self._fail(FleetFailedError(f"{text}; the last error: {reason}"))
            return
        self._on_event(f"{member.name} lost ({reason}); replaced in {restart.pause_s:.1f} s")
        await self._pause(restart.pause_s)
        if len(self._members.staying()) < self._wanted and not self._failure:
            self._add()

    def _fail(self, failure: FleetFailedError) -> None:
        self._failure = self._failure or failure
        self._queue.fail_all(self._failure)
