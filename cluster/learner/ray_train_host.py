"""The learner on Ray Train: a worker group of ranks, each running actors/learner/learner.py.

Ray Train places the ranks, forms the process group and ends the worker group if one rank fails;
what to do then is decided here, by the same policy as for every other worker. A worker group always
begins from the checkpoint that the driver names, so Ray Train's own checkpoints are not used. Where
the number of ranks may vary, Ray Train also replaces a worker group by a larger or smaller one; to
the driver that is a worker group like any other, and it counts as no failure.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import ray
import ray.train
import ray.train.torch
from ray.train import FailureConfig
from ray.train.torch import TorchConfig
from ray.train.v2.api.config import ScalingConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer

from actors.messages import LearnerStart, LearnerTask, Published
from cluster.config.run_config import RunConfig
from cluster.fleet import failure_policy
from cluster.fleet.failure_policy import Decision
from cluster.fleet.ray_worker import last_line
from cluster.fleet.worker_factories import thread_environment
from cluster.learner.elastic_ranks import ElasticTrainer
from cluster.resources.placement import reserved_beside_learner, reserved_cpus
from cluster.run_state.files import WEIGHTS
from cluster.telemetry.log_labels import label_logs

logger = logging.getLogger(__name__)


RESIZE_EVERY_S = 60.0
"""How often a running worker group is compared with the available resources. A restart with more
ranks costs the steps since the newest checkpoint, so it is not done for every node that joins."""


ELASTIC_START_S = "10"
"""How long a worker group waits for its resources before they are counted again: a node
that was lost may still be counted at first. Ray Train's own limit, 60 s, is for fixed numbers."""


COLLECTIVE_TIMEOUT_S = 300
"""A rank that waits longer for the others fails; its worker group restarts from a checkpoint."""


class RayLearnerPort:
    """A rank's way to the driver. Every call has a deadline; waiting for work is many calls."""

    def __init__(self, driver: Any, timeout_s: float) -> None:  # noqa: ANN401  # a Ray handle
        self._driver, self._timeout_s, self._attempt = driver, timeout_s, -1

    def _ask(self, method: str, *args: Any) -> Any:  # noqa: ANN401
        reply = getattr(self._driver, method).remote(*args)
        return ray.get(reply, timeout=self._timeout_s)

    def start(self, rank: int, world_size: int) -> LearnerStart:
        """Say that this rank is up, and learn where to begin."""
        start: LearnerStart = self._ask("learner_start", rank, world_size)
        self._attempt = start.attempt
        return start

    def next_task(self, rank: int, world_size: int, index: int) -> LearnerTask:
        """Wait for task number index of this worker group."""
        while True:
            task: LearnerTask | None = self._ask(
                "learner_task", self._attempt, rank, world_size, index
            )
            if task is not None:
                return task

    def published(self, published: Published) -> None:
        """Say that new weights are in the store."""
        self._ask("published", published)

    def finished(self, index: int, metrics: Mapping[str, float]) -> None:
        """Say that a task is done."""
        self._ask("learner_finished", self._attempt, index, dict(metrics))


def run_rank(settings: dict[str, Any]) -> None:
    """Be one rank: what Ray Train calls in each worker of the worker group."""
    from actors.learner.settings import LearnerSettings  # noqa: PLC0415
    from actors.learner.train_loop import train_loop  # noqa: PLC0415

    config = RunConfig.model_validate_json(settings["config"])
    context = ray.train.get_context()
    label_logs(config.name, f"learner-{context.get_world_rank()}")
    driver = ray.get_actor(settings["driver"], namespace=settings["namespace"])
    train_loop(
        RayLearnerPort(driver, config.placement.timeout_s),
        LearnerSettings(
            model=config.model.name,
            weights=Path(settings["run_dir"]) / WEIGHTS,
            sft=config.sft,
            objective=config.objective,
            temperature=config.rollout.temperature,
            published_dtype=config.rollout.dtype,
            config=config.learner,
            context_tokens=config.data.max_prompt_tokens + config.data.max_response_tokens,
            teacher=config.teacher.model if config.teacher else None,
            preferences=config.preferences,
        ),
        device=ray.train.torch.get_device(),
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
    )


class LearnerHost:
    """Keeps a worker group running from the moment it is made; it needs no call to restart."""

    def __init__(
        self,
        config: RunConfig,
        run_dir: Path,
        driver_name: str,
        namespace: str,
        *,
        be_rank: Callable[[dict[str, Any]], None] = run_rank,
        resize_every_s: float = RESIZE_EVERY_S,
    ) -> None:
        """Start the first worker group.

        Args:
            driver_name: of the actor that gives the ranks their tasks.
            be_rank: what each rank does, from start to end.
            resize_every_s: how often a worker group is compared with the room there is.
        """
        self._config, self._run_dir = config, run_dir
        self._driver_name, self._namespace = driver_name, namespace
        self._be_rank, self._resize_every_s = be_rank, resize_every_s
        if config.learner.min_ranks is not None:
            os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", ELASTIC_START_S)
        threading.Thread(target=self._keep_running, name="learner", daemon=True).start()

    def __repr__(self) -> str:
        """Return the name that the dashboard shows."""
        return "learner-host"

    def _keep_running(self) -> None:
        driver = ray.get_actor(self._driver_name, namespace=self._namespace)
        losses, finished_before = 0, 0
        while True:
            try:
                self._trainer().fit()
                return
            except Exception as error:  # whatever ended the worker group, the policy decides
                finished = cast("int", ray.get(driver.learner_progress.remote(), timeout=60.0))
                losses = 1 if finished > finished_before else losses + 1
                finished_before = finished
                restart = failure_policy.after_lost_worker(losses)
                reason = last_line(error)
                if restart.decision is Decision.STOP:
                    text = f"the learner failed {losses} times in a row; the last error: {reason}"
                    ray.get(driver.learner_failed.remote(text), timeout=60.0)
                    return
                logger.warning("learner lost (%s); again in %.1f s", reason, restart.pause_s)
                time.sleep(restart.pause_s)

    def _trainer(self) -> TorchTrainer:
        learner = self._config.learner
        run_settings: dict[str, Any] = {  # Ray's stubs know only the older RunConfig
            "name": "learner",
            "storage_path": str(self._run_dir / "ray_train"),
            "failure_config": FailureConfig(max_failures=0),
            "worker_runtime_env": {"env_vars": thread_environment(learner.cpus_per_rank)},
        }
        settings: dict[str, Any] = {
            "train_loop_config": {
                "config": self._config.model_dump_json(),
                "run_dir": str(self._run_dir),
                "driver": self._driver_name,
                "namespace": self._namespace,
            },
            "torch_config": TorchConfig(
                backend="nccl" if learner.gpus_per_rank else "gloo",
                timeout_s=COLLECTIVE_TIMEOUT_S,
            ),
            "scaling_config": scaling(self._config, self._resize_every_s),
            "run_config": ray.train.RunConfig(**run_settings),
        }
        if learner.min_ranks is None:
            return TorchTrainer(self._be_rank, **settings)
        others = reserved_beside_learner(self._config)
        return ElasticTrainer(self._be_rank, others=others, **settings)


def scaling(config: RunConfig, resize_every_s: float) -> ScalingConfig:
    """Say in Ray Train's words how many ranks there are, what each takes and where they may go."""
    learner = config.learner
    cpus = reserved_cpus(learner.cpus_per_rank, shares_cpus=config.placement.phases_share_cpus)
    resources = {"CPU": cpus}
    if learner.gpus_per_rank:
        resources["GPU"] = learner.gpus_per_rank
    bounds = None if learner.min_ranks is None else (learner.min_ranks, learner.num_ranks)
    return ScalingConfig(
        num_workers=bounds or learner.num_ranks,
        use_gpu=bool(learner.gpus_per_rank),
        resources_per_worker=resources,
        label_selector=config.placement.node_labels.get("learner"),
        elastic_resize_monitor_interval_s=resize_every_s,
    )
