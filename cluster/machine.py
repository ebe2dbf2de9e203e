"""What this machine has, counted as Ray would count it, without starting Ray."""

import os
import shutil
import subprocess
from pathlib import Path

import psutil

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
