"""How another process reaches a run that goes on: where its cluster is, and what may be asked.

The job process leaves the address in the run directory for as long as it follows the run. A run
that ended badly may leave it behind; then nobody answers there, and that is told.
"""

import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._raylet import Config  # type: ignore[attr-defined]  # compiled
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from actors.errors import InvalidInputError
from cluster.config.namespaces import DRIVER
from cluster.config.worker_counts import ROLLOUT, job_sizes
from cluster.run_state.directory import read_config, refuse_other_format
from cluster.run_state.files import write_atomically
from cluster.run_state.status import Status

CLUSTER = "cluster.json"
"""Where the run's driver is: the cluster's address, the driver's namespace, how to be let in."""
AUTH_MODE = "RAY_AUTH_MODE"
"""The variable by which Ray decides whether to show its token."""
CONNECT_S = 3.0
"""A cluster that takes no connection for so long is not there."""
ANSWER_S = 120.0
"""The driver answers at once, except that a second discriminator needs the first one's weights,
which it gives between two of its calls."""


def leave_address(run_dir: Path, namespace: str) -> None:
    """Note where the cluster is that this process is connected to."""
    place = {
        "address": ray.get_runtime_context().gcs_address,
        "namespace": namespace,
        "auth_mode": os.environ.get(AUTH_MODE, "disabled"),
    }
    write_atomically(run_dir / CLUSTER, json.dumps(place) + "\n")


def remove_address(run_dir: Path) -> None:
    """Note that the run is over."""
    (run_dir / CLUSTER).unlink(missing_ok=True)


@contextmanager
def attached(run_dir: Path) -> Iterator[Any]:
    """Be connected to the cluster on which a run goes on.

    Yields:
        The handle of its driver.

    Raises:
        InvalidInputError: if no run goes on there.
    """
    refuse_other_format(run_dir)
    nobody = InvalidInputError(
        f"no run is going on in {run_dir}; irlign train starts one, or goes on with it"
    )
    try:
        place = json.loads((run_dir / CLUSTER).read_text())
        host, _, port = place["address"].rpartition(":")
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise nobody from error
    _connect(place)
    try:
        yield _driver(nobody)
    finally:
        ray.shutdown()


def _connect(place: Mapping[str, str]) -> None:
    os.environ[AUTH_MODE] = place["auth_mode"]
    Config.initialize("")  # Ray read the variable when it was imported
    try:
        ray.init(
            address=place["address"],
            namespace=place["namespace"],
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except ConnectionError as error:
        raise InvalidInputError(
            f"the cluster at {place['address']} does not let this process in; it needs the token "
            "of whoever started the run, which Ray keeps in ~/.ray/auth_token"
        ) from error


def _driver(nobody: InvalidInputError) -> Any:  # noqa: ANN401  # Ray's handles are dynamic
    try:
        return ray.get_actor(DRIVER)
    except ValueError as error:
        raise nobody from error


def parse_sizes(arguments: Sequence[str]) -> dict[str, int]:
    """Read arguments such as rollout=8.

    Args:
        arguments: each KIND=N.

    Returns:
        Workers by kind.

    Raises:
        InvalidInputError: naming the first argument that cannot be read.
    """
    wanted: dict[str, int] = {}
    for argument in arguments:
        kind, _, number = argument.rpartition("=")
        if not kind or not number.removeprefix("-").isdecimal():
            raise InvalidInputError(f"{argument!r} is not KIND=N, such as rollout=4")
        if kind in wanted:
            raise InvalidInputError(f"{kind} is given twice: {wanted[kind]} and {number}")
        wanted[kind] = int(number)
    return wanted


def check_sizes(wanted: Mapping[str, int], kinds: Sequence[str]) -> None:
    """Refuse what no run can have.

    Raises:
        InvalidInputError: naming the value, the limit and the choices.
    """
    if not wanted:
        raise InvalidInputError(f"nothing to scale; give KIND=N for one of {', '.join(kinds)}")
    for kind, number in wanted.items():
        if kind not in kinds:
            raise InvalidInputError(
                f"{kind}={number}: this run has no workers of that kind; it has {', '.join(kinds)}"
            )
        if number < 0:
            raise InvalidInputError(f"{kind}={number}: there cannot be fewer than 0 workers")
        if number == 0 and kind != ROLLOUT:
            raise InvalidInputError(
                f"{kind}=0: every step needs at least 1; {ROLLOUT}=0 pauses the run"
            )


def ask(run_dir: Path, method: str, *args: Any) -> Any:  # noqa: ANN401
    """Ask the driver of a run that goes on.

    Returns:
        The answer.

    Raises:
        InvalidInputError: if no run goes on there, it does not answer, or refuses.
    """
    with attached(run_dir) as driver:
        try:
            return ray.get(getattr(driver, method).remote(*args), timeout=ANSWER_S)
        except RayTaskError as error:
            raise InvalidInputError(f"{run_dir}: {error.cause}") from error
        except (RayActorError, GetTimeoutError) as error:
            raise InvalidInputError(
                f"the driver of {run_dir} does not answer; it may be restarting, so try again"
            ) from error


def status_of(run_dir: Path) -> Status:
    """Return what a run is doing. Raises InvalidInputError as ask does."""
    return Status(*ask(run_dir.expanduser(), "status"))


def stop(run_dir: Path, *, now: bool) -> str:
    """Have a run end.

    Args:
        now: without a checkpoint; what was done since the newest is lost.

    Returns:
        What happens, in a sentence.

    Raises:
        InvalidInputError: if no run goes on there, or it does not answer.
    """
    run_dir = run_dir.expanduser()
    if now:
        with attached(run_dir) as driver:
            ray.kill(driver)
        return f"{run_dir}: ended at once; it can go on from its newest checkpoint"
    ask(run_dir, "stop")
    return f"{run_dir}: it finishes the step under way, writes a checkpoint, and ends"


def scale(run_dir: Path, wanted: Mapping[str, int]) -> list[str]:
    """Change the numbers of workers of a run while it goes on; kinds not named stay as they are.

    Args:
        wanted: workers by kind: rollout, discriminator, teacher, or a reward source's name. With 0
            rollout workers the run pauses.

    Returns:
        A sentence for each kind. Workers come up, or finish what they have and leave, afterwards.

    Raises:
        InvalidInputError: if the numbers cannot be, no run goes on there, or it does not answer.
    """
    run_dir = run_dir.expanduser()
    check_sizes(wanted, list(job_sizes(read_config(run_dir))))
    done: list[str] = ask(run_dir, "scale", dict(wanted))
    return done
