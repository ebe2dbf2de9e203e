"""The learner on Ray Train: a worker group of ranks, each running actors/learner/learner.py.

Ray Train places the ranks, forms the process group and ends the worker group if one rank fails. The
host then starts another one, by the same failure policy as for every other worker. A worker group
starts from the checkpoint that the driver names; Ray Train's own checkpoints are not used. If
learner.min_ranks is set, Ray Train also replaces a worker group by a larger or smaller one; the
driver treats it as any other, and it does not count as a failure.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import ray
import ray.train
import ray.train.torch
from ray.train.v2.torch.torch_trainer import TorchTrainer

from actors.learner.settings import LearnerSettings
from actors.learner.train_loop import train_loop
from actors.messages import LearnerStart, LearnerTask, Published
from cluster.config.run_config import RunConfig
from cluster.fleet import failure_policy
from cluster.fleet.failure_policy import Decision
from cluster.learner.rank_failures import rank_failure
from cluster.learner.torch_trainer import RESIZE_EVERY_S, torch_trainer
from cluster.run_state.files import WEIGHTS
from cluster.telemetry.log_labels import label_logs

ELASTIC_START_S = "10"
"""Seconds that an elastic worker group waits for its resources before they are counted again: a
lost node may still be counted at first. Ray Train's default, 60 s, suits a fixed number of ranks.
"""


class RayLearnerPort:
    """A rank's connection to the driver. Each call has a deadline; a rank polls for its tasks."""

    def __init__(self, driver: Any, timeout_s: float) -> None:  # noqa: ANN401  # a Ray handle
        self._driver, self._timeout_s, self._attempt = driver, timeout_s, -1

    def _call(self, method: str, *args: Any) -> Any:  # noqa: ANN401
        reply = getattr(self._driver, method).remote(*args)
        return ray.get(reply, timeout=self._timeout_s)

    def start(self, rank: int, world_size: int) -> LearnerStart:
        """Join the worker group; return its attempt and checkpoint."""
        start: LearnerStart = self._call("learner_start", rank, world_size)
        self._attempt = start.attempt
        return start

    def next_task(self, rank: int, world_size: int, index: int) -> LearnerTask:
        """Wait for task number index of the worker group."""
        while True:
            task: LearnerTask | None = self._call(
                "learner_task", self._attempt, rank, world_size, index
            )
            if task is not None:
                return task

    def published(self, published: Published) -> None:
        """Announce new weights in the store."""
        self._call("published", published)

    def finished(self, index: int, metrics: Mapping[str, float]) -> None:
        """Report that a task is done."""
        self._call("learner_finished", self._attempt, index, dict(metrics))


def run_learner_rank(settings: dict[str, Any]) -> None:
    """Run one rank; Ray Train calls this in each worker of the worker group."""
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


class RayTrainHost:
    """An actor that starts the learner's worker group, and restarts it when it fails."""

    def __init__(
        self,
        config: RunConfig,
        run_dir: Path,
        driver_name: str,
        namespace: str,
        *,
        run_rank: Callable[[dict[str, Any]], None] = run_learner_rank,
        resize_every_s: float = RESIZE_EVERY_S,
    ) -> None:
        """Start the first worker group.

        Args:
            driver_name: of the actor from which the ranks pull their tasks.
            resize_every_s: how often an elastic worker group is compared with the free resources.
        """
        self._config, self._run_dir = config, run_dir
        self._driver_name, self._namespace = driver_name, namespace
        self._run_rank, self._resize_every_s = run_rank, resize_every_s
        if config.learner.min_ranks is not None:
            os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", ELASTIC_START_S)
        threading.Thread(target=self._keep_running, name="learner", daemon=True).start()

    def __repr__(self) -> str:
        """Return the name that Ray's dashboard shows."""
        return "learner-host"

    def _keep_running(self) -> None:
        driver = ray.get_actor(self._driver_name, namespace=self._namespace)
        losses, finished_before = 0, 0
        while True:
            try:
                self._trainer().fit()
                return
            except Exception as error:  # whatever ended the worker group
                finished = cast("int", ray.get(driver.learner_progress.remote(), timeout=60.0))
                losses = 1 if finished > finished_before else losses + 1
                finished_before = finished
                restart = failure_policy.after_lost_worker(losses)
                failure = rank_failure(error)
                if restart.decision is Decision.STOP:
                    text = f"the learner failed {losses} times in a row; the last error: "
                    ray.get(driver.learner_failed.remote(text + failure.reason), timeout=60.0)
                    return
                may_restart = driver.learner_lost.remote(failure, restart.pause_s)
                if not ray.get(may_restart, timeout=60.0):
                    return
                time.sleep(restart.pause_s)

    def _trainer(self) -> TorchTrainer:
        rank_settings = {
            "config": self._config.model_dump_json(),
            "run_dir": str(self._run_dir),
            "driver": self._driver_name,
            "namespace": self._namespace,
        }
        return torch_trainer(
            self._run_rank,
            rank_settings,
            self._config,
            self._run_dir,
            name="learner",
            resize_every_s=self._resize_every_s,
        )
