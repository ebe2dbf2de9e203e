"""Turns the plain worker classes of actors/ into Ray actors.

Each worker is built inside its actor's process, so that torch and vLLM are imported only there. One
small actor class hosts them all: it answers while its worker computes, and a worker's methods that
are not coroutines run one at a time in a thread.
"""

import asyncio
import inspect
import os
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from cluster.config.namespaces import run_of
from cluster.fleet.members import READY, WorkerLostError
from cluster.resources.placement import reserved_cpus
from cluster.telemetry.log_labels import label_logs
from cluster.telemetry.ray_metrics import WorkerExporter

CONCURRENT_CALLS = 16


HEARTBEAT_S = 20.0
"""A worker that computes longer is asked for a sign of life so often."""


LONGEST_SILENCE_S = 60.0
"""A process that gives none for this long hangs; a machine that is only busy is quicker."""


class WorkerHost:
    """An actor that holds one worker."""

    def __init__(self, name: str, build: Callable[[], Any]) -> None:
        """Only be there: the worker is built when it is asked whether it is ready.

        So it can be told from outside whether a worker waits for room in the cluster, for which
        there is no deadline, or starts, for which there is one.
        """
        self._name, self._build = name, build
        self._one_at_a_time = asyncio.Lock()
        self._worker: Any = None
        run = run_of(ray.get_runtime_context().namespace)
        label_logs(run, name)
        self._exporter = WorkerExporter(run, name)

    def __repr__(self) -> str:
        """Return the name, as the dashboard and the logs show it."""
        return self._name

    async def call(self, method: str, *args: Any) -> Any:  # noqa: ANN401
        """Call a method of the worker, or build it and answer that it is ready."""
        if method == READY:
            self._worker = self._worker or self._build()
            return os.getpid()
        began = time.monotonic()
        function = getattr(self._worker, method)
        if inspect.iscoroutinefunction(function):
            result = await function(*args)
        else:
            async with self._one_at_a_time:
                result = await asyncio.to_thread(function, *args)
        self._exporter.done(method, time.monotonic() - began, args, result)
        return result

    async def heartbeat(self) -> None:
        """Answer, whatever the worker computes."""

    def leave(self) -> None:
        """End this process, without being taken for a failure."""
        ray.actor.exit_actor()  # type: ignore[no-untyped-call]


class RayHandle:
    """A worker in an actor."""

    def __init__(self, actor: Any) -> None:  # noqa: ANN401  # Ray's handles are dynamic
        self._actor = actor

    async def placed(self) -> None:
        """Wait until the worker has a process, however long there is no room for one.

        Raises:
            WorkerLostError: if its process ended as it began.
        """
        try:
            await self._actor.__ray_ready__.remote()
        except RayActorError as error:
            raise WorkerLostError(last_line(error)) from error

    async def call(self, method: str, *args: Any) -> Any:  # noqa: ANN401
        """Call a method of the worker, wherever it runs.

        Returns:
            What the method returns.

        Raises:
            WorkerLostError: if its process is gone, or hangs. What the method raises is passed on.
        """
        reply = asyncio.ensure_future(self._actor.call.remote(method, *args))
        try:
            while not (await asyncio.wait({reply}, timeout=HEARTBEAT_S))[0]:
                if method != READY:  # while it is built it answers nothing else
                    await asyncio.wait_for(self._actor.heartbeat.remote(), LONGEST_SILENCE_S)
            return await reply
        except RayActorError as error:
            raise WorkerLostError(last_line(error)) from error
        except RayTaskError as error:  # Ray's class for it is a TimeoutError too if its cause is
            raise error.cause from error
        except TimeoutError as error:
            silence = f"it hangs: no sign of life for {LONGEST_SILENCE_S:.0f} s"
            raise WorkerLostError(silence) from error
        finally:
            reply.cancel()

    async def leave(self) -> None:
        """Let the worker end by itself."""
        try:
            await self._actor.leave.remote()
        except RayActorError:
            return  # that is how its end looks from here

    def kill(self) -> None:
        """End the worker now."""
        ray.kill(self._actor)


def last_line(error: Exception) -> str:
    """Return the line of a remote error that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def start_worker(
    name: str,
    build: Callable[[], Any],
    *,
    cpus: float,
    gpus: float,
    shares_cpus: bool,
    environment: dict[str, str],
    labels: dict[str, str] | None = None,
) -> RayHandle:
    """Start a worker in an actor of its own, which lives as long as the driver does.

    Args:
        build: makes the worker; called in its process.
        shares_cpus: whether it reserves almost none of its CPUs.
        environment: variables set before anything is imported there.
        labels: that its node must have; the worker waits for such a node.

    Returns:
        A handle. Starting goes on.
    """
    actor_class = ray.remote(WorkerHost).options(
        name=name,
        num_cpus=reserved_cpus(cpus, shares_cpus=shares_cpus),
        num_gpus=gpus,
        max_restarts=0,
        max_task_retries=0,
        max_concurrency=CONCURRENT_CALLS,
        runtime_env={"env_vars": environment},
        label_selector=labels or None,
    )
    return RayHandle(actor_class.remote(name, build))
