"""Shows the progress of a run until it is over, and stops or abandons it when signals arrive."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from actors.errors import RunAbandonedError, RunFailedError
from cluster.config.namespaces import DRIVER, namespace
from cluster.jobs.control import remove_address
from cluster.jobs.progress import Display
from cluster.jobs.ray_session import is_running
from cluster.jobs.stop_signals import StopSignals
from cluster.run_state.lifecycle import mark_ended
from cluster.run_state.manifest import Ending, load_manifest
from cluster.run_state.status import STARTING, Status

POLL_S = 0.25
SLOW_S = 5.0
DRIVER_STARTS, DRIVER_RESTARTS = "starting the driver", "waiting for the driver, which restarts"
"""Phases of a run whose driver does not reply for SLOW_S."""
MAX_SILENCE_S = 120.0
"""A run whose driver does not reply for longer than this, restarts included, has failed."""
KILL_S = 10.0
"""Time in which the processes of a killed run end."""
ABANDONED = ("sampling", "scoring", STARTING, "loading")
"""Beginnings of the phases that a stop abandons; see Driver.request_stop."""


def follow(
    driver: Any,  # noqa: ANN401
    run: tuple[str, Path],
    signals: StopSignals,
    progress: Display,
    on_status: Callable[[Status], None] | None = None,
) -> Status:
    """Show the progress of a run until it is over, end its driver, and return the last status.

    The first signal stops the run, the second one ends it at once.

    Args:
        run: name and directory of the run.
        on_status: called with each status too, and every SLOW_S while the driver does not reply.

    Raises:
        RunFailedError: if the driver does not reply for MAX_SILENCE_S, or was killed.
        RunAbandonedError: after a second signal.
    """
    requests, num_handled = StatusRequests(driver, run), 0
    try:
        while True:
            if signals.count > num_handled:
                num_handled += 1
                if num_handled > 1:
                    raise RunAbandonedError(_abandon(driver, *run))
                progress.say(_acknowledgment(requests.newest))
                driver.stop.remote()
            if (status := requests.poll()) is None:
                continue
            progress.update(status)
            if on_status:
                on_status(status)
            if status.is_over:
                ray.kill(driver)
                return status
            time.sleep(POLL_S)
    finally:
        progress.close()


class StatusRequests:
    """Requests the status of a driver, which may be slow or restart."""

    def __init__(self, driver: Any, run: tuple[str, Path]) -> None:  # noqa: ANN401
        self._driver, self._run = driver, run
        self.newest = Status.starting(DRIVER_STARTS)
        """The newest status; its phase says so while the driver does not reply for SLOW_S."""
        self._replied_at = self._asked_at = time.monotonic()
        self._reply: Any = None

    def poll(self) -> Status | None:
        """Wait for POLL_S, and return the newest status if the driver replied or is slow.

        Raises:
            RunFailedError: if it does not reply for MAX_SILENCE_S, or was killed.
        """
        if self._reply is None:
            self._reply, self._asked_at = self._driver.status.remote(), time.monotonic()
        is_answered = bool(ray.wait([self._reply], timeout=POLL_S)[0])
        now = time.monotonic()
        if not is_answered and now - self._asked_at < SLOW_S:
            return None
        silence_s = now - self._replied_at
        if is_answered and (status := self._status()):
            self.newest, self._replied_at = status, now
        elif silence_s > MAX_SILENCE_S:
            raise RunFailedError(f"the driver did not reply for {MAX_SILENCE_S:.0f} s")
        elif silence_s > SLOW_S:
            is_first = self.newest.phase == DRIVER_STARTS
            phase = DRIVER_STARTS if is_first else DRIVER_RESTARTS
            self.newest = self.newest._replace(phase=phase, phase_s=silence_s)
        # Not requested before it is wanted: Ray reports a request that an ended driver left.
        self._reply = None
        return self.newest

    def _status(self) -> Status | None:
        """Return the driver's reply; None if it restarts."""
        try:
            return Status(*ray.get(self._reply))
        except (RayActorError, GetTimeoutError) as error:
            if is_running():
                return None
            _mark_stopped(*self._run)
            raise RunFailedError("the run was ended by irlign stop --now") from error


def _mark_stopped(name: str, run_dir: Path) -> int:
    """Write that a run whose driver was killed has stopped; return the step of its checkpoint."""
    step = load_manifest(run_dir, name).iteration
    mark_ended(run_dir, name, Ending(how="stopped", iteration=step))
    return step


def _acknowledgment(status: Status) -> str:
    again = "Ctrl-C again ends the run at once, without a checkpoint"
    if status.stage == "starting":
        return f"stopping: the start is abandoned ({again})"
    if status.phase.startswith(ABANDONED):
        return f"stopping: {status.phase} is abandoned, then a checkpoint is written ({again})"
    step = min(status.iteration + 1, status.num_iterations)
    return f"stopping: finishing step {step}, {status.phase}, then a checkpoint ({again})"


def _abandon(driver: Any, name: str, run_dir: Path) -> str:  # noqa: ANN401
    """End a run's driver and workers now; return a sentence about what is left."""
    ray.kill(driver)
    deadline = time.monotonic() + KILL_S
    while (left := _actors(name)) and time.monotonic() < deadline:
        for actor in left:
            if actor != DRIVER:
                _kill(actor, name)
        time.sleep(POLL_S)
    step = _mark_stopped(name, run_dir)
    remove_address(run_dir)
    still = f"still running: {', '.join(left)}" if left else "all its processes were ended"
    return (
        f"abandoned at once; {still}. Steps after the checkpoint of step {step} are "
        f"lost; the same command resumes the run in {run_dir} from there"
    )


def _actors(name: str) -> list[str]:
    """Return the names of a run's actors that still exist."""
    named = ray.util.list_named_actors(all_namespaces=True)
    return [each["name"] for each in named if each["namespace"] == namespace(name)]


def _kill(actor: str, name: str) -> None:
    try:
        ray.kill(ray.get_actor(actor, namespace=namespace(name)))
    except ValueError:  # it has ended meanwhile, with its driver
        return
