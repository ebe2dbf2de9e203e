"""What this machine has, counted as Ray would count it, without starting Ray."""

import math
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import ray
from rich.console import Console

from actors.errors import InvalidInputError
from cluster.config.run_config import RunConfig
from cluster.resources.placement import Plan, reserved_cpus

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""A container's memory limit, which the machine's own figures do not show."""


def this_machine() -> dict[str, float]:
    """Return amounts by Ray's names of them: CPU, GPU, and free memory in bytes."""
    memory = float(psutil.virtual_memory().available)
    limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.is_file() else "max"
    if limit.isdecimal():
        memory = min(memory, float(limit))
    return {"CPU": float(_num_cpus()), "GPU": float(_num_gpus()), "memory": memory}


def _num_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _num_gpus() -> int:
    """Count the GPUs that the driver lists, one a line; without a driver there are none."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return 0
    listed = subprocess.run([command, "-L"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


UNITS = 10_000
"""Ray counts resources in parts of this size."""


GRACE_S = 15.0
"""Workers of a run that just ended may hold their place for so long."""


POLL_S = 2.0


SECONDS_BETWEEN_LINES = 60.0


def missing_resources(plan: Plan, free: Mapping[str, float]) -> str:
    """Say what of a plan is missing.

    Args:
        free: amounts by Ray's names, CPU and GPU.

    Returns:
        A clause such as "8 GPUs (2 are free)", or "" if all is there.
    """
    needed = {
        "CPU": sum(
            each.num_workers * reserved_cpus(each.cpus, shares_cpus=plan.shares_cpus)
            for each in plan.workers
        ),
        "GPU": sum(each.num_workers * each.gpus for each in plan.workers),
    }
    missing = [
        f"{amount:g} {name}s ({free.get(name, 0.0):g} are free)"
        for name, amount in needed.items()
        if round(amount * UNITS) > round(free.get(name, 0.0) * UNITS)
    ]
    return " and ".join(missing)


def wait_for_resources(
    config: RunConfig,
    plan: Plan,
    console: Console,
    *,
    free: Callable[[], Mapping[str, float]] = ray.available_resources,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Return once the cluster has room for a run, or has the run already.

    Args:
        config: of the run; placement.when_full says whether it waits.
        console: told now and then what is missing.
        free: what the cluster has left.
        pause: waits so many seconds.

    Raises:
        InvalidInputError: if there is no room and the run shall not wait.
    """
    patience_s = math.inf if config.placement.when_full == "wait" else GRACE_S
    waited_s, told_s = 0.0, -math.inf
    while missing := missing_resources(plan, free()):
        if waited_s >= patience_s:
            raise InvalidInputError(
                f"the cluster has no room: the run needs {missing}; end another run, or set "
                "placement.when_full=wait"
            )
        if waited_s - told_s >= SECONDS_BETWEEN_LINES and patience_s == math.inf:
            console.print(f"{waited_s:5.0f} s | waiting for room: the run needs {missing}")
            told_s = waited_s
        pause(POLL_S)
        waited_s += POLL_S
