"""The connection of a job process to Ray, and how signals end it."""

import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import ray
from ray._raylet import Config  # type: ignore[attr-defined]  # compiled

from actors.errors import RunFailedError
from cluster.config.namespaces import DRIVER, namespace
from cluster.config.run_config import RunConfig

AUTH_MODE = "RAY_AUTH_MODE"
"""Environment variable by which Ray enables authentication with its token."""
SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Environment variable of Ray that the entrypoint of a submitted job has."""
OBJECT_STORE_BYTES = 512 * 2**20
"""Object store of a cluster started here: trajectories are small, and weights go through files."""

TIMED_OUT = "timed out during startup"
NO_START = (
    "Ray did not start within its 30 s: this machine is busy or has little memory left; try again "
    "when it is less busy, or set RAY_ADDRESS to the address of a running cluster"
)


def is_embedded() -> bool:
    """Whether a cluster is started for the run, since RAY_ADDRESS is not set."""
    return "RAY_ADDRESS" not in os.environ


@contextmanager
def connected(
    config: RunConfig, modules: Sequence[Path] = (), *, start: Callable[..., object] = ray.init
) -> Iterator[None]:
    """Connect to the cluster of RAY_ADDRESS, or to one started here, which is ended afterwards.

    Args:
        modules: files and folders of code that the workers can import. The workers of a submitted
            job have them already, in its working directory.

    Raises:
        RunFailedError: if Ray does not start in time.
    """
    paths = [] if SUBMITTED in os.environ else [str(module) for module in modules]
    if is_embedded():
        use_auth_mode(os.environ.get(AUTH_MODE, "token"))  # Ray's default, which it warns about
    try:
        with _start_told():
            start(
                address=os.environ.get("RAY_ADDRESS", "local"),
                namespace=namespace(config.name),
                log_to_driver=False,
                logging_level=logging.ERROR,
                logging_config=ray.LoggingConfig(encoding="JSON", log_level="WARNING"),
                runtime_env={"py_modules": paths} if paths else None,
                object_store_memory=OBJECT_STORE_BYTES if is_embedded() else None,
            )
        yield
    finally:
        ray.shutdown()


@contextmanager
def _start_told() -> Iterator[None]:
    """Replace the exception of a start that takes too long; Ray raises a plain one."""
    try:
        yield
    except Exception as error:
        if TIMED_OUT in str(error):
            raise RunFailedError(NO_START) from error
        raise


def use_auth_mode(mode: str) -> None:
    """Set Ray's authentication mode, which Ray read from the environment when it was imported."""
    os.environ[AUTH_MODE] = mode
    Config.initialize("")


def is_running() -> bool:
    """Whether a driver runs in the namespace that this process is connected to."""
    try:
        ray.get_actor(DRIVER)
    except ValueError:
        return False
    return True


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Make SIGTERM, which stops a job on a cluster, raise KeyboardInterrupt as Ctrl-C does."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
