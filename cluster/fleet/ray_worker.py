"""Ray actors that run the plain worker classes of actors/.

Each worker is built inside its actor's process, so that torch and vLLM are imported only there. One
small actor class hosts every kind of worker: it responds while its worker computes, and those
methods of a worker that are not coroutines run one at a time in a thread.
"""

import asyncio
import inspect
import os
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray._private.state import actors
from ray.exceptions import RayActorError, RayTaskError

from cluster.config.namespaces import run_of
from cluster.fleet.members import READY, WorkerExitedError, WorkerLostError
from cluster.resources.availability import missing_for_worker, nodes
from cluster.resources.placement import reserved_cpus
from cluster.telemetry.log_labels import label_logs
from cluster.telemetry.ray_metrics import WorkerExporter

CONCURRENT_CALLS = 16
HEARTBEAT_S = 20.0
"""Interval of the checks that the actor responds during a long call."""
HEARTBEAT_TIMEOUT_S = 60.0
"""An actor that does not respond within this time hangs; a busy machine responds sooner."""


class WorkerHost:
    """An actor that holds one worker."""

    def __init__(self, name: str, build: Callable[[], Any]) -> None:
        """Store what builds the worker; the first call of READY builds it.

        So a fleet can distinguish a worker that waits for resources, for which there is no
        deadline, from one that starts, for which there is one.
        """
        self._name, self._build = name, build
        self._one_at_a_time = asyncio.Lock()
        self._worker: Any = None
        run = run_of(ray.get_runtime_context().namespace)
        label_logs(run, name)
        self._exporter = WorkerExporter(run, name)

    def __repr__(self) -> str:
        """Return the name that Ray's dashboard and logs show."""
        return self._name

    async def call(self, method: str, *args: Any) -> Any:  # noqa: ANN401
        """Call a method of the worker; READY builds the worker and returns the process id."""
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
        """Return at once, also while the worker computes."""

    def exit(self) -> None:
        """End this process without counting as a failure."""
        ray.actor.exit_actor()  # type: ignore[no-untyped-call]


class RayHandle:
    """The handle of a worker in a Ray actor."""

    def __init__(
        self,
        actor: Any,  # noqa: ANN401  # Ray's handles are dynamic
        wanted: Mapping[str, float],
        labels: Mapping[str, str],
    ) -> None:
        """Bind an actor.

        Args:
            wanted: resources that it reserves, by Ray's names.
            labels: labels that its node must have.
        """
        self._actor, self._wanted, self._labels = actor, wanted, labels

    def missing(self) -> str:
        """Return which resources the worker waits for; "" once it has a node."""
        actor = actors(self._actor._actor_id.hex())
        if actor.get("Address", {}).get("IPAddress"):  # of its process; a NodeID may be of a queue
            return ""
        return missing_for_worker(self._wanted, self._labels, nodes())

    async def wait_until_placed(self) -> None:
        """Wait, without a deadline, until a node runs the worker's process.

        Raises:
            WorkerLostError: if its process ended while it started.
        """
        try:
            await self._actor.__ray_ready__.remote()
        except RayActorError as error:
            raise _lost(error) from error

    async def call(self, method: str, *args: Any) -> Any:  # noqa: ANN401
        """Call a method of the worker.

        Raises:
            WorkerExitedError: if its program ended its process.
            WorkerLostError: if its process was killed, or hangs. An error that the method raises is
                passed on.
        """
        reply = asyncio.ensure_future(self._actor.call.remote(method, *args))
        try:
            while not (await asyncio.wait({reply}, timeout=HEARTBEAT_S))[0]:
                if method != READY:  # building the worker blocks its event loop
                    await asyncio.wait_for(self._actor.heartbeat.remote(), HEARTBEAT_TIMEOUT_S)
            return await reply
        except RayActorError as error:
            raise _lost(error) from error
        except RayTaskError as error:  # Ray's class for it is a TimeoutError too if its cause is
            raise error.cause from error
        except TimeoutError as error:
            silence = f"it hangs: no heartbeat for {HEARTBEAT_TIMEOUT_S:.0f} s"
            raise WorkerLostError(silence) from error
        finally:
            reply.cancel()

    async def exit(self) -> None:
        """Let the worker's process end without counting as a failure."""
        try:
            await self._actor.exit.remote()
        except RayActorError:
            return  # raised because the actor has exited

    def kill(self) -> None:
        """End the worker's process now."""
        ray.kill(self._actor)


DETAIL = "Worker exit detail: "
EXIT_CODE = re.compile(r"exits with an exit code [1-9]")


def cause_of(error: Exception) -> str:
    """Return the cause of a remote error, without what Ray adds to it.

    It is the line of Ray's detail about the end of the process, or else the last line.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    line = next((line for line in lines if DETAIL in line), lines[-1])
    cause = line.rpartition(DETAIL)[-1]
    for advice in (" Some common causes include:", " There are some potential root causes"):
        cause = cause.partition(advice)[0]
    return cause.removesuffix(".")


def _lost(error: RayActorError) -> WorkerLostError | WorkerExitedError:
    cause = cause_of(error)
    return WorkerExitedError(cause) if EXIT_CODE.search(cause) else WorkerLostError(cause)


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
    """Start a worker in an actor of its own, and return its handle at once.

    Args:
        build: builds the worker; called in the actor's process.
        shares_cpus: reserve almost no CPUs, because phases that alternate share them.
        environment: variables set before anything is imported in the actor's process.
        labels: labels that the node must have; the worker waits for such a node.
    """
    reserved = reserved_cpus(cpus, shares_cpus=shares_cpus)
    actor_class = ray.remote(WorkerHost).options(
        name=name,
        num_cpus=reserved,
        num_gpus=gpus,
        max_restarts=0,
        max_task_retries=0,
        max_concurrency=CONCURRENT_CALLS,
        runtime_env={"env_vars": environment},
        label_selector=labels or None,
    )
    wanted = {"CPU": reserved, "GPU": gpus}
    return RayHandle(actor_class.remote(name, build), wanted, labels or {})
