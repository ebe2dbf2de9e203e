"""Nodes follow a fleet: Ray's autoscaler starts and ends raylets on this machine as it would hosts.

Ray's own AutoscalingCluster would end every Ray process of the machine, and needs a file that its
wheel does not hold; so the head is started here.
"""

import asyncio
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import ray
from ray._private.services import get_node_ip_address
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

from cluster.fleet.fleet import Fleet
from cluster.fleet.ray_worker import start_worker
from tests.fakes.labelled_cluster import WhereAmI

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]
DEADLINE_S = 200.0
IDLE_MINUTES = 0.05
"""Idle time after which the autoscaler ends a node."""
NODE_TYPES = {
    "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
    "rollout_node": {
        "resources": {"CPU": 1, "object_store_memory": 80 * 2**20},
        "labels": {"pool": "rollout"},
        "node_config": {},
        "min_workers": 0,
        "max_workers": 3,
    },
}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def autoscaler_config(port):
    """Return the autoscaler's settings; it requires the empty ones too."""
    commands = ("setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "nodes-follow",
        "max_workers": 3,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "gcs_address": f"{get_node_ip_address()}:{port}",
            "launch_multiple": True,
            "head_node_id": FAKE_HEAD_NODE_ID,
        },
        "available_node_types": NODE_TYPES,
        "head_node_type": "ray.head.default",
        "idle_timeout_minutes": IDLE_MINUTES,
        "upscaling_speed": 1.0,
        "file_mounts_sync_continuously": False,
        "initialization_commands": [],
        **{f"{name}_commands": [] for name in commands},
        **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
        **{name: {} for name in ("auth", "docker", "file_mounts")},
    }


@contextmanager
def autoscaling_head():
    """Start a head without CPUs and its autoscaler, and end them with everything they started."""
    folder, port = Path(tempfile.mkdtemp(prefix="ray-")), free_port()
    (folder / "autoscaler.json").write_text(json.dumps(autoscaler_config(port)))
    command = [
        *(Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--num-cpus=0"),
        *(f"--port={port}", f"--temp-dir={folder}", "--object-store-memory=80000000"),
        *(f"--autoscaling-config={folder}/autoscaler.json", "--include-dashboard=false"),
        *("--dashboard-agent-listen-port=0", "--metrics-export-port=0", "--disable-usage-stats"),
        *("--min-worker-port=0", "--max-worker-port=0", f"--ray-client-server-port={free_port()}"),
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "disabled"),  # as in this process
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    }
    with (folder / "head.log").open("w") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + DEADLINE_S
        while "Ray runtime started" not in (folder / "head.log").read_text():
            assert head.poll() is None, (folder / "head.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield f"{get_node_ip_address()}:{port}"
    finally:
        end_all_of(head, folder)
        shutil.rmtree(folder, ignore_errors=True)


def end_all_of(head, folder):
    """End a head, every process it started, and every process whose command names its folder."""
    theirs = {process.pid: process for process in psutil.Process(head.pid).children(recursive=True)}
    head.terminate()
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in word for word in process.info["cmdline"] or ()):
            theirs[process.pid] = process
    theirs.pop(head.pid, None)
    for process in theirs.values():
        if process.is_running():
            process.terminate()
    _, alive = psutil.wait_procs(theirs.values(), timeout=10.0)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=10.0)
    head.wait(timeout=30.0)


def num_rollout_nodes():
    labels = [node["Labels"] for node in ray.nodes() if node["Alive"]]
    return sum(each.get("pool") == "rollout" for each in labels)


async def until(condition):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, ray.nodes()
        await asyncio.sleep(0.1)  # other processes do the work


async def test_nodes_join_for_a_fleet_that_grows_and_leave_when_it_is_scaled_to_0():
    with autoscaling_head() as address:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)

        def start(name):
            return start_worker(
                name,
                WhereAmI,
                cpus=1.0,
                gpus=0.0,
                shares_cpus=False,
                environment={},
                labels={"pool": "rollout"},
            )

        fleet = Fleet("rollout", start, timeout_s=DEADLINE_S)
        try:
            assert num_rollout_nodes() == 0
            began = time.monotonic()
            fleet.scale(3)
            pools = await asyncio.gather(*(fleet.request("pool") for _ in range(3)))
            assert pools == ["rollout"] * 3
            await until(lambda: num_rollout_nodes() == 3)
            await until(lambda: fleet.has_target_size)
            logger.info("3 nodes came and serve after %.1f s", time.monotonic() - began)
            began = time.monotonic()
            fleet.scale(0)
            await until(lambda: num_rollout_nodes() == 0)
            logger.info("they were gone after %.1f s", time.monotonic() - began)
        finally:
            await fleet.close()
            ray.shutdown()
