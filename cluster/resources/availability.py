"""The resources of this machine, counted as Ray counts them, and those free on a cluster."""

import math
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
import ray
from ray._private.state import available_resources_per_node
from rich.console import Console

from actors.errors import InvalidInputError
from cluster.config.run_config import RunConfig
from cluster.resources.placement import Plan, reserved_cpus

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""Memory limit of a container, which psutil does not report."""


def this_machine() -> dict[str, float]:
    """Return amounts by Ray's names: CPU, GPU, and free memory in bytes."""
    memory = float(psutil.virtual_memory().available)
    limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.is_file() else "max"
    if limit.isdecimal():
        memory = min(memory, float(limit))
    return {"CPU": float(_num_cpus()), "GPU": float(_num_gpus()), "memory": memory}


def _num_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _num_gpus() -> int:
    """Count the GPUs that nvidia-smi lists, one per line; without it there are none."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return 0
    listed = subprocess.run([command, "-L"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


UNITS = 10_000
"""Parts of a CPU or GPU in which Ray counts."""
GRACE_S = 15.0
"""Time in which the workers of a run that just ended release their resources."""
POLL_S = 2.0
SECONDS_BETWEEN_LINES = 60.0


def missing_resources(plan: Plan, free: Mapping[str, float]) -> str:
    """Return the missing resources such as "8 GPUs (2 are free)", or "" if all are there."""
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


class Node(NamedTuple):
    """A living node's free resources by Ray's names, and its labels."""

    free: Mapping[str, float]
    labels: Mapping[str, str]


def nodes() -> list[Node]:
    """Return the living nodes of the cluster that this process is connected to."""
    free = available_resources_per_node()  # type: ignore[no-untyped-call]
    return [
        Node(free.get(node["NodeID"], {}), node["Labels"])
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]


def missing_for_worker(
    wanted: Mapping[str, float], labels: Mapping[str, str], on: Sequence[Node]
) -> str:
    """Return what a worker waits for, and what is free; "" if a node has room for it.

    Args:
        wanted: amounts by Ray's names.
        labels: labels that its node must have.
    """
    allowed = [node for node in on if labels.items() <= node.labels.items()]
    amounts = {name: amount for name, amount in wanted.items() if amount > 0.0}
    for node in allowed:
        if all(
            round(amount * UNITS) <= round(node.free.get(name, 0.0) * UNITS)
            for name, amount in amounts.items()
        ):
            return ""
    text = " and ".join(f"{amount:g} {name}" for name, amount in amounts.items())
    place = ", ".join(f"{name}={value}" for name, value in labels.items())
    if place and not allowed:
        return f"a node with the label {place}; no living node has it"
    place = f" with the label {place}" if place else ""
    return f"{text} on one node{place}; free on one node are at most {most_free(amounts, allowed)}"


def most_free(wanted: Mapping[str, float], on: Sequence[Node]) -> str:
    """Return the largest free amount on one node of each resource that is wanted."""
    return " and ".join(
        f"{max((node.free.get(name, 0.0) for node in on), default=0.0):g} {name}"
        for name, amount in wanted.items()
        if amount > 0.0
    )


def wait_for_resources(
    config: RunConfig,
    plan: Plan,
    console: Console,
    *,
    free: Callable[[], Mapping[str, float]] = ray.available_resources,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until the cluster has the resources of a run, as long as placement.when_full allows.

    Args:
        free: amounts that are free on the cluster, by Ray's names.
        pause: waits so many seconds.

    Raises:
        InvalidInputError: if they are not free within GRACE_S and placement.when_full is fail.
    """
    patience_s = math.inf if config.placement.when_full == "wait" else GRACE_S
    waited_s, printed_s = 0.0, -math.inf
    while missing := missing_resources(plan, free()):
        if waited_s >= patience_s:
            raise InvalidInputError(
                f"the run needs {missing}; stop another run, or set placement.when_full=wait"
            )
        if waited_s - printed_s >= SECONDS_BETWEEN_LINES and patience_s == math.inf:
            console.print(f"{waited_s:5.0f} s | waiting for resources: the run needs {missing}")
            printed_s = waited_s
        pause(POLL_S)
        waited_s += POLL_S
