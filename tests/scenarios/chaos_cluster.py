"""A job on a Ray cluster of several raylets, all on this machine, whose processes can be killed.

The cluster's head has no CPUs, so all work is on the other nodes; its GCS stores its tables in
RocksDB, so that it can be killed and restarted.
"""

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from contextlib import suppress
from pathlib import Path

import psutil
import ray
from ray._private.state import actors
from ray.cluster_utils import Cluster

from tests.fakes.tiny_job import save_tiny_job

ROOT = str(Path(__file__).parents[2])
DEADLINE_S = 400.0
NUM_NODES = 2
SILENCE_S = 20.0
PROMPTS_PER_STEP = 4
CHECKPOINT_EVERY_STEPS = 5
FAST_HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 5,
}


def sum_of_tokens(prompt, response, expert_response):
    """A reward function of the job."""
    return float(len(response.split()))


def write_job(place, *, timeout_s=DEADLINE_S, **sections):
    """Write a job of many short steps, strictly on-policy, with two learner ranks."""
    save_tiny_job(place, hidden_size=64)
    job = json.loads((place / "job.yaml").read_text())
    job |= {
        "sft": {"steps": 2, "prompts_per_step": 4, "learning_rate": 0.01},
        "objective": {
            "steps": 100_000,
            "prompts_per_step": PROMPTS_PER_STEP,
            "group_size": 2,
            "learning_rate": 0.001,
        },
        "rewards": [{"function": "tests.scenarios.chaos_cluster:sum_of_tokens", "weight": 0.1}],
        "rollout": {"dtype": "float32", "max_sequences": 8, "kv_cache_gib": 0.05},
        "discriminator": {"warm_up_steps": 1},
        "learner": {"num_ranks": 2, "checkpoint_every_steps": CHECKPOINT_EVERY_STEPS},
        "evaluation": {"every_steps": 1000, "num_prompts": 2},
        "placement": {"phases_share_cpus": True, "timeout_s": timeout_s},
    }
    job |= sections
    (place / "job.yaml").write_text(json.dumps(job))


class Site:
    """Owns a cluster and the job that runs on it. Use it as a context manager."""

    def __init__(self, place):
        self.place, self.run_dir = place, place / "chaos"
        self.process = None
        environment = {
            "PYTHONPATH": ROOT,
            "IRLIGN_ALLOWED_IMPORTS": "tests",
            "RAY_gcs_storage": "rocksdb",
            "RAY_gcs_storage_path": str(place / "gcs"),
        }
        self._environment_before = {name: os.environ.get(name) for name in environment}
        os.environ |= environment
        (place / "gcs").mkdir()
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "include_dashboard": False,
                "object_store_memory": 10**8,
                "_system_config": {
                    **FAST_HEALTH_CHECKS,
                    "gcs_rpc_server_reconnect_timeout_s": 120,
                },
            },
        )
        self._nodes = [self._new_node() for _ in range(NUM_NODES)]
        ray.init(address=self._cluster.address, namespace="chaos", log_to_driver=False)

    def _new_node(self):
        return self._cluster.add_node(num_cpus=8, object_store_memory=10**8)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        ray.shutdown()
        self._cluster.shutdown()
        for name, before in self._environment_before.items():
            del os.environ[name]
            if before is not None:
                os.environ[name] = before
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()  # Ray's objects of ended processes

    # ---- the job

    def start_job(self, run=None):
        """Start or resume the job with `irlign train`, optionally in another run directory."""
        self.run_dir = self.place / run if run else self.run_dir
        command = ["-m", "cluster.cli.main", "train", "job.yaml", "--run-dir", self.run_dir]
        with (self.place / "job.log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=self.place,
                env={**os.environ, "RAY_ADDRESS": self._cluster.address, "COLUMNS": "300"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def stop_job(self):
        """Send SIGTERM, as `ray job stop` does, and wait for the end."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=DEADLINE_S)

    def rows(self):
        """Return the metrics of every step so far, in order."""
        path = self.run_dir / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        rows = []
        for line in lines:
            with suppress(ValueError):  # being written
                rows.append(json.loads(line))
        return rows

    def step(self):
        return max((row["step"] for row in self.rows()), default=-1)

    def manifest(self):
        return json.loads((self.run_dir / "manifest.json").read_text())

    def wait_for_step(self, number):
        """Return the seconds until the run has done this step."""
        began = time.monotonic()
        while self.step() < number:
            assert time.monotonic() - began < DEADLINE_S, self.why()
            time.sleep(0.05)  # another process writes the file
        return time.monotonic() - began

    def why(self):
        """Return what explains why the run makes no progress: newest events and the log."""
        log = (self.place / "job.log").read_text()[-2000:]
        return f"step {self.step()}; {self.manifest()['events'][-5:]}\n{log}"

    # ---- what can be killed

    def _living(self, class_name, name=""):
        """Return Ray's records of the living actors of a class, by the start of their names."""
        return [
            actor
            for actor in actors().values()
            if actor["State"] == "ALIVE"
            and actor["ActorClassName"].rpartition(".")[2] == class_name
            and (actor["Name"] or "").startswith(name)
        ]

    def _node(self, actor):
        """Remove the node of an actor from the list of nodes, and return it."""
        (node,) = [node for node in self._nodes if node.node_id == actor["Address"]["NodeID"]]
        self._nodes.remove(node)
        return node

    def kill(self, class_name, name="", signal_number=signal.SIGKILL):
        """Send SIGKILL to an actor's process, or SIGSTOP, after which it hangs."""
        os.kill(self._living(class_name, name)[0]["Pid"], signal_number)

    def kill_job_process(self):
        """SIGKILL the process of `irlign train`, and start it again."""
        self.process.kill()
        self.process.wait()
        self.start_job()

    def kill_node(self):
        """SIGKILL all processes of a node, and add a new one.

        The node is the driver's, or a rollout worker's if the driver is on the head.
        """
        (driver,), (worker,) = self._living("DriverActor"), self._living("WorkerHost", "rollout")
        on_head = driver["Address"]["NodeID"] == self._cluster.head_node.node_id
        node = self._node(worker if on_head else driver)
        self._cluster.remove_node(node, allow_graceful=False)
        self._nodes.append(self._new_node())

    def silence_node_of_rollout(self):
        """Stop all processes of a node, like a network partition; they resume after 20 s."""
        (worker,) = self._living("WorkerHost", "rollout")
        node = self._node(worker)
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        halted = [raylet, *raylet.children(recursive=True)]
        for process in halted:
            with suppress(psutil.NoSuchProcess):
                process.suspend()

        def resume():
            for process in halted:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

        threading.Timer(SILENCE_S, resume).start()
        self._nodes.append(self._new_node())

    def kill_gcs(self):
        """SIGKILL the GCS, and start it again 3 s later."""
        head = self._cluster.head_node
        (process,) = head.all_processes.pop("gcs_server")
        process.process.kill()
        process.process.wait()
        time.sleep(3.0)
        head._gcs_address = head._gcs_client = None  # Ray has no method for this
        head.start_gcs_server()

    def damage_weights(self):
        """Flip a bit of the newest weights, and make a worker read them.

        The weights have just been published: the worker has yet to sample with them, so no newer
        ones can replace them before its replacement reads them.
        """
        before = newest = self._newest_weights()
        began = time.monotonic()
        while newest == before:
            assert time.monotonic() - began < DEADLINE_S, self.why()
            time.sleep(0.002)  # another process writes the file
            newest = self._newest_weights()
        with newest.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            (byte,) = file.read(1)
            file.seek(-1, os.SEEK_END)
            file.write(bytes([byte ^ 1]))
        self.kill("WorkerHost", "rollout")

    def _newest_weights(self):
        return max((self.run_dir / "weights").glob("*.safetensors"))

    def left_over(self):
        """Return the processes of workers that have not ended 20 s after the job."""
        workers = (
            "ray::WorkerHost",
            "ray::RayTrainWorker",
            "ray::RayTrainHost",
            "ray::DriverActor",
        )
        found = []
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if process.cmdline() and process.cmdline()[0].startswith(workers):
                    found.append(process)
        return psutil.wait_procs(found, timeout=20)[1]


EVENTS = {
    "kill -9 of a rollout worker, its engine within": lambda site: site.kill(
        "WorkerHost", "rollout"
    ),
    "kill -9 of a reward worker": lambda site: site.kill("WorkerHost", "sum_of_tokens"),
    "kill -9 of a learner rank": lambda site: site.kill("RayTrainWorker"),
    "kill -9 of Ray Train's controller": lambda site: site.kill("TrainController"),
    "kill -9 of the learner host": lambda site: site.kill("RayTrainHost"),
    "kill -9 of the driver": lambda site: site.kill("DriverActor", "driver"),
    "kill -9 of the job process": lambda site: site.kill_job_process(),
    "kill -9 of the GCS, back after 3 s": lambda site: site.kill_gcs(),
    "kill -9 of a whole node, the driver's if it is not the head": lambda site: site.kill_node(),
    "silence of the rollout worker's node for 20 s": lambda site: site.silence_node_of_rollout(),
    "SIGSTOP of a rollout worker": lambda site: site.kill("WorkerHost", "rollout", signal.SIGSTOP),
    "a bit flipped in the newest weights": lambda site: site.damage_weights(),
    "kill -9 of the discriminator worker": lambda site: site.kill("WorkerHost", "discriminator"),
}
"""Failures by name. All but the last change no metric; a new discriminator lacks the updates since
the newest checkpoint."""


def untimed(row):
    """Return the metrics of a step that are not times or rates."""
    timed = ("time", "rollout/tokens_per_s", "learner/step_s", "learner/tokens_per_s")
    return {name: value for name, value in row.items() if not name.startswith(timed)}


def account(manifest):
    """Return the numbers of prompts lost and trained on twice, by the manifest and by counting."""
    trained, dropped = manifest["trained_draws"], sum(manifest["dropped_draws"].values())
    lost = manifest["num_draws"] - trained - dropped - len(manifest["unfinished_draws"])
    return lost, trained - manifest["iteration"] * PROMPTS_PER_STEP
