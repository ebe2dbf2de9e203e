"""Inspects, resizes and stops a run from another process, by its run directory.

The job process keeps the address of the cluster in the run directory while it follows the run. If
it is killed, the file remains, the address does not respond, and the calls raise an error.
"""

import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from actors.errors import InvalidInputError
from cluster.config.namespaces import DRIVER
from cluster.config.worker_counts import check_sizes, job_sizes
from cluster.jobs.ray_session import AUTH_MODE, use_auth_mode
from cluster.run_state.directory import read_config, refuse_other_format
from cluster.run_state.files import write_atomically
from cluster.run_state.status import Status

CLUSTER = "cluster.json"
"""File with the cluster's address, the driver's namespace and Ray's authentication mode."""
HIDDEN = "_ray_internal_irlign"
"""Namespace whose processes Ray's Jobs page does not list."""
CONNECT_S = 3.0
"""Timeout of the connection, after which the run is considered inactive."""
REPLY_S = 120.0
"""Timeout of a call to the driver. It replies at once, unless it adds a discriminator worker, which
waits for the weights of the first worker; that worker sends them between two of its calls."""


def leave_address(run_dir: Path, namespace: str) -> None:
    """Write the address of the cluster that this process is connected to."""
    place = {
        "address": ray.get_runtime_context().gcs_address,
        "namespace": namespace,
        "auth_mode": os.environ.get(AUTH_MODE, "disabled"),
    }
    write_atomically(run_dir / CLUSTER, json.dumps(place) + "\n")


def remove_address(run_dir: Path) -> None:
    """Delete the address, at the end of a run."""
    (run_dir / CLUSTER).unlink(missing_ok=True)


@contextmanager
def attached(run_dir: Path) -> Iterator[Any]:
    """Connect to the cluster of an active run, and yield the handle of its driver.

    Raises:
        InvalidInputError: if the run is not active.
    """
    refuse_other_format(run_dir)
    not_running = InvalidInputError(
        f"no run is active in {run_dir}; irlign train starts or resumes one"
    )
    try:
        place = json.loads((run_dir / CLUSTER).read_text())
        host, _, port = place["address"].rpartition(":")
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise not_running from error
    _connect(place)
    try:
        yield _driver(place["namespace"], not_running)
    finally:
        ray.shutdown()


def _connect(place: Mapping[str, str]) -> None:
    use_auth_mode(place["auth_mode"])
    try:
        ray.init(
            address=place["address"],
            namespace=HIDDEN,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except ConnectionError as error:
        raise InvalidInputError(
            f"the cluster at {place['address']} refused the connection; use the token of the user "
            "who started the run, which Ray keeps in ~/.ray/auth_token"
        ) from error


def _driver(namespace: str, not_running: InvalidInputError) -> Any:  # noqa: ANN401  # a Ray handle
    try:
        return ray.get_actor(DRIVER, namespace=namespace)
    except ValueError as error:
        raise not_running from error


def call_driver(run_dir: Path, method: str, *args: Any) -> Any:  # noqa: ANN401
    """Call a method of a run's driver and return its result.

    Raises:
        InvalidInputError: if the run is not active, or the driver does not reply or refuses.
    """
    with attached(run_dir) as driver:
        try:
            return ray.get(getattr(driver, method).remote(*args), timeout=REPLY_S)
        except RayTaskError as error:
            raise InvalidInputError(f"{run_dir}: {error.cause}") from error
        except (RayActorError, GetTimeoutError) as error:
            raise InvalidInputError(
                f"the driver of {run_dir} does not reply; it may be restarting, so try again"
            ) from error


def status_of(run_dir: Path) -> Status:
    """Return the status of a run. Raises InvalidInputError as call_driver does."""
    return Status(*call_driver(run_dir.expanduser(), "status"))


def stop_run(run_dir: Path, *, now: bool) -> str:
    """Stop a run and return a sentence about it. Raises InvalidInputError as call_driver does.

    Args:
        now: end at once; steps since the newest checkpoint are lost.
    """
    run_dir = run_dir.expanduser()
    if now:
        with attached(run_dir) as driver:
            ray.kill(driver)
        return f"{run_dir}: ended; it can resume from its newest checkpoint"
    call_driver(run_dir, "stop")
    return f"{run_dir}: stops after the current step, with a checkpoint"


def scale_run(run_dir: Path, sizes: Mapping[str, int]) -> list[str]:
    """Change the numbers of workers of an active run, and return a sentence for each kind.

    Workers start, or finish their requests and leave, after this returns.

    Args:
        sizes: number of workers by kind (rollout, discriminator, teacher, or the name of a reward
            source); other kinds keep theirs. With 0 rollout workers the run pauses.

    Raises:
        InvalidInputError: if a number is not possible, and as call_driver does.
    """
    run_dir = run_dir.expanduser()
    check_sizes(sizes, list(job_sizes(read_config(run_dir))))
    done: list[str] = call_driver(run_dir, "scale", dict(sizes))
    return done
