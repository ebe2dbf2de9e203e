"""A Ray cluster of several raylets on this machine, with labels on its nodes."""

import gc
import logging
import shutil
import tempfile
import warnings
from contextlib import contextmanager

import ray
from ray.cluster_utils import Cluster

FAST_HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 4,
}


class WhereAmI:
    """A worker that returns its node's label."""

    def pool(self):
        return ray.get_runtime_context().get_node_labels()["pool"]


class LabelledCluster:
    """A cluster to which nodes join and from which they leave; each has the label pool."""

    def __init__(self, cluster):
        self._cluster = cluster

    def add_node(self, pool, *, cpus=1):
        return self._cluster.add_node(
            num_cpus=cpus, labels={"pool": pool}, object_store_memory=80 * 2**20
        )

    def lose(self, node):
        """SIGKILL all processes of a node."""
        self._cluster.remove_node(node, allow_graceful=False)


@contextmanager
def labelled_cluster(namespace, *, pool, cpus):
    """Start a head with this label, connect to it, and end everything afterwards."""
    folder = tempfile.mkdtemp(prefix="ray-")  # pytest's own are too long for a socket's path
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": cpus,
            "labels": {"pool": pool},
            "include_dashboard": False,
            "object_store_memory": 80 * 2**20,
            "temp_dir": folder,
            "_system_config": FAST_HEALTH_CHECKS,
        },
    )
    ray.init(
        address=cluster.address,
        namespace=namespace,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        yield LabelledCluster(cluster)
    finally:
        ray.shutdown()
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()  # Ray's objects of ended processes
