"""A fleet: workers of one kind behind one queue, with retries, replacement, draining and scaling.

A fleet knows neither Ray nor what its workers do. An idle worker takes the next request; if the
worker is lost or misses its deadline, another worker takes the request and the lost one is
replaced. A worker serves only after it holds the newest weights. The states of a worker:

    waiting -> starting -> syncing -> serving -> draining

A worker waits, without a deadline, until a node has the resources it needs: nodes may still join.
A fleet with a target size of 0 is paused: its requests wait, without a deadline, until it grows.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple

from actors.errors import RetryableError, one_line
from cluster.fleet import failure_policy
from cluster.fleet.failure_policy import Decision
from cluster.fleet.members import READY, Handle, Member, Members, WorkerExitedError, WorkerLostError
from cluster.fleet.requests import Request, RequestQueue
from cluster.run_state.status import WorkerStatus

logger = logging.getLogger(__name__)
NOTICE_S = 10.0
"""Time between two looks at what a worker waits for that has no process yet."""


class FleetFailedError(RuntimeError):
    """The fleet stopped replacing its workers, or was closed; the message holds the last error."""


class Reports(NamedTuple):
    """Functions by which a fleet tells what happens to its workers."""

    event: Callable[[str], None] = logger.warning
    """Called with a sentence for each lost worker, replacement and long wait."""
    started: Callable[[str, float], None] = lambda _name, _seconds: None
    """Called with the name of a worker that has started, and the seconds it took."""
    notice_s: float = NOTICE_S
    """Time between two looks at what a worker without a process waits for."""


LOGGED = Reports()
"""Events go to the log."""


class Fleet:
    """Owns its workers and the queue of requests to them.

        fleet = Fleet("rollout", start_worker, timeout_s=600, sync=send_weights)
        fleet.scale(4)
        fleet.announce(published)
        result = await fleet.request("rollout", request)
        await fleet.close()

    Guarantees: every request ends in a result or an error, unless the fleet stays paused; each call
    of a worker has a deadline; at most one worker has a request at a time; a draining worker
    finishes its request first. The oldest worker leads, and is the last to drain.
    """

    def __init__(
        self,
        kind: str,
        start: Callable[[str], Handle],
        *,
        timeout_s: float,
        sync: Callable[[Handle, Any], Awaitable[Any]] | None = None,
        syncs_while_serving: bool = False,
        reports: Reports = LOGGED,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Make a fleet without workers.

        Args:
            kind: names the workers: rollout-0, rollout-1, ...
            start: starts the worker of this name and returns at once.
            timeout_s: the deadline of a start, of a sync and of one attempt at a request.
            sync: loads an announced version into a worker; None if the workers hold no weights.
            syncs_while_serving: sync workers during a request too, not only between requests.
            pause: waits this many seconds before a lost worker is replaced.
        """
        self.kind = kind
        self._start, self._sync, self._reports, self._pause = start, sync, reports, pause
        self._reported: Member | None = None
        self._timeout_s, self._syncs_while_serving = timeout_s, syncs_while_serving
        self._tasks: set[asyncio.Task[None]] = set()
        self._queue, self._members = RequestQueue(), Members()
        self._busy_s = 0.0
        self._target_size, self._num_started, self._consecutive_losses = 0, 0, 0
        self._newest: object = None
        self._failure: FleetFailedError | None = None
        self._failed = asyncio.Event()
        self._errors = failure_policy.RepeatedErrors()

    async def failure(self) -> FleetFailedError:
        """Wait until the fleet has failed or was closed, and return the error."""
        await self._failed.wait()
        assert self._failure
        return self._failure

    @property
    def target_size(self) -> int:
        """Number of workers that the fleet starts and keeps."""
        return self._target_size

    @property
    def has_target_size(self) -> bool:
        """Whether there are as many workers as the target size, all of them started."""
        states = [member.state for member in self._members.values()]
        is_changing = bool({"waiting", "starting", "draining"} & set(states))
        return len(states) == self._target_size and not is_changing

    @property
    def busy_s(self) -> float:
        """Seconds spent on requests so far, summed over workers."""
        return self._busy_s + self._members.busy_s()

    def status(self) -> list[WorkerStatus]:
        """Return each worker's name, state, version and number of requests served."""
        return self._members.statuses()

    def scale(self, target_size: int) -> None:
        """Set the number of workers; 0 pauses. Workers start, or the newest drain, meanwhile.

        Raises:
            FleetFailedError: if the fleet has failed or was closed.
        """
        if self._failure:
            raise self._failure
        if self._target_size == 0:
            self._consecutive_losses = 0  # losses before a pause say nothing about the new workers
            self._errors.clear()
        self._target_size = target_size
        staying = self._members.staying()
        for member in staying[target_size:]:
            self._drain(member)
        for _ in range(target_size - len(staying)):
            self._add()
        self._members.wake_all()

    def announce(self, newest: object) -> None:
        """Set the version that every worker must hold before its next request."""
        self._newest = newest
        self._members.wake_all()
        for member in self._members.serving() if self._syncs_while_serving else ():
            self._spawn(self._sync_while_serving(member))

    def announce_from_lead(self, version: object) -> None:
        """Announce a version that the leading worker made and therefore holds already."""
        for member in self._members.staying()[:1]:
            member.version = version
        self.announce(version)

    async def request(self, method: str, *args: Any, lead_only: bool = False) -> Any:  # noqa: ANN401
        """Call a method on one worker; on another one if the first is lost.

        Args:
            lead_only: only the leading worker may take the request.

        Raises:
            FleetFailedError: if the fleet has failed, or if the request fails on several workers.
                An error that the method itself raises is passed on.
        """
        if self._failure:
            raise self._failure
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.put(Request(method, args, lead_only, done))
        self._members.wake(lead_only=lead_only)
        return await done

    async def close(self, patience_s: float = 5.0) -> None:
        """Drain every worker for this many seconds, then kill those that remain."""
        self._target_size = 0
        self._fail(FleetFailedError(f"the {self.kind} fleet was closed"))
        for member in list(self._members.values()):
            self._drain(member)
        self._members.wake_all()
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
        member = self._members[name] = Member(name, self._start(name), self._num_started)
        self._num_started += 1
        member.worker_loop = self._spawn(self._worker_loop(member))

    def _drain(self, member: Member) -> None:
        """Let a worker finish its request and exit; remove one that waits for resources at once."""
        if member.state == "waiting":
            self._members.pop(member.name)
            member.handle.kill()
            if member.worker_loop:
                member.worker_loop.cancel()
        member.state = "draining"

    async def _worker_loop(self, member: Member) -> None:
        try:
            await self._wait_for_resources(member)
            began = time.monotonic()
            await asyncio.wait_for(member.handle.call(READY), self._timeout_s)
            self._reports.started(member.name, time.monotonic() - began)
            while request := await self._next_request(member):
                await self._serve(member, request)
            self._members.wake()  # another worker, for a request that woke this one
            await asyncio.wait_for(member.handle.exit(), self._timeout_s)
            self._members.pop(member.name, None)
        except Exception as error:  # lost, too slow, or unable to start or sync
            await self._replace(member, error)

    async def _wait_for_resources(self, member: Member) -> None:
        """Wait until the worker has a process. One waiting worker at a time is an event."""
        placed = asyncio.ensure_future(member.handle.wait_until_placed())
        began = time.monotonic()
        try:
            while not (await asyncio.wait({placed}, timeout=self._reports.notice_s))[0]:
                if self._reported is None and (missing := member.handle.missing()):
                    self._reported = member
                    self._reports.event(f"{member.name} is waiting for {missing}")
            await placed
            if self._reported is member:
                waited_s = time.monotonic() - began
                self._reports.event(f"{member.name} has its resources after {waited_s:.0f} s")
        finally:
            placed.cancel()
            if self._reported is member:
                self._reported = None
        member.state = "starting"

    async def _next_request(self, member: Member) -> Request | None:
        """Wait for a request that this worker may take, syncing it meanwhile; None to exit."""
        while member.state != "draining":
            if self._sync is not None and member.version != self._newest:
                member.state = "syncing"
                await self._sync_to_newest(member)
                continue
            member.state = "serving"
            if request := self._queue.take(is_lead=self._members.lead() is member):
                return request
            await self._members.wait(member)
        return None

    async def _sync_to_newest(self, member: Member) -> None:
        async with member.sync_lock:
            while self._sync is not None and member.version != self._newest:
                newest = self._newest
                try:
                    await asyncio.wait_for(self._sync(member.handle, newest), self._timeout_s)
                except FileNotFoundError:  # newer ones have replaced it before it was read
                    if self._newest == newest:
                        raise
                else:
                    member.version = newest

    async def _sync_while_serving(self, member: Member) -> None:
        try:
            await self._sync_to_newest(member)
        except Exception as error:  # killing the worker hands its request to another one
            self._reports.event(f"{member.name} could not load the newest weights: {error!r}")
            member.handle.kill()

    async def _serve(self, member: Member, request: Request) -> None:
        request.attempts += 1
        began = member.serving_since = time.monotonic()
        try:
            call = member.handle.call(request.method, *request.args)
            result = await asyncio.wait_for(call, self._timeout_s)
        except (
            WorkerLostError,
            WorkerExitedError,
            TimeoutError,
            asyncio.CancelledError,
        ) as error:
            self._retry(request, error)
            raise
        except RetryableError as error:
            self._retry(request, error)
            return
        except Exception as error:  # raised by the method: the worker itself has not failed
            request.fail(error)
            return
        finally:
            member.serving_since = None
            self._busy_s += time.monotonic() - began
        self._consecutive_losses = 0
        self._errors.clear()
        member.num_served += 1
        if not request.done.done():
            request.done.set_result(result)

    def _retry(self, request: Request, error: BaseException) -> None:
        if self._failure:
            request.fail(self._failure)
        elif failure_policy.after_failed_request(request.attempts) is Decision.RETRY:
            self._queue.put_back(request)
            self._members.wake(lead_only=request.lead_only)
        else:
            reason = f"{request.method} failed on {request.attempts} {self.kind} workers: {error!r}"
            request.fail(FleetFailedError(reason))

    def _reason(self, member: Member, error: Exception) -> str:
        """Return the reason of a loss as a clause."""
        if isinstance(error, TimeoutError) and not str(error):
            return f"no response within {self._timeout_s:.0f} s while {member.state}"
        if isinstance(error, WorkerLostError | WorkerExitedError):
            return str(error)
        return one_line(error)

    async def _replace(self, member: Member, error: Exception) -> None:
        member.handle.kill()
        self._members.pop(member.name, None)
        self._members.wake_all()  # another worker may lead now
        reason = self._reason(member, error)
        if member.state == "draining":
            self._reports.event(f"{member.name} was lost while draining ({reason})")
            return
        if member.num_served:  # many workers lost at once after they had served: no crash loop
            self._consecutive_losses = 0
        self._consecutive_losses += 1
        if not isinstance(error, WorkerLostError | TimeoutError) and self._errors.is_repeated(
            reason, member.start, self._num_started
        ):
            text = f"a {self.kind} worker and its replacement failed with the same error: {reason}"
            self._fail(FleetFailedError(text))
            return
        restart = failure_policy.after_lost_worker(self._consecutive_losses)
        if restart.decision is Decision.STOP:
            count = self._consecutive_losses
            text = f"{count} {self.kind} workers in a row failed without finishing a request"
            self._fail(FleetFailedError(f"{text}; the last error: {reason}"))
            return
        self._reports.event(
            f"{member.name} was lost ({reason}); a replacement starts in {restart.pause_s:.1f} s"
        )
        await self._pause(restart.pause_s)
        if len(self._members.staying()) < self._target_size and not self._failure:
            self._add()

    def _fail(self, failure: FleetFailedError) -> None:
        self._failure = self._failure or failure
        self._failed.set()
        self._queue.fail_all(self._failure)
