"""A learner whose policy is the number of its steps, and a driver for it, as Ray actors."""

import asyncio
import json
import time
from pathlib import Path

import numpy as np
import ray
import ray.train

from actors.messages import LearnerTask
from alignment.mdp.trajectories import EMPTY
from cluster.learner.ray_train_host import RayLearnerPort
from cluster.learner.task_queue import LearnerTaskQueue, WorkerGroupRestartedError

TIMEOUT_S = 240.0
STEP_S = 0.05
CHECKPOINT_EVERY_STEPS = 5


class CountingDriver:
    """Submits steps, and goes back to the newest checkpoint when the learner was restarted.

    A checkpoint is an empty file named for its step. One counts when its task was handed in: a
    worker group that ends between the two leaves a file of which the task queue knows nothing.
    """

    def __init__(self, place):
        self._place, self._task_queue = (
            Path(place),
            LearnerTaskQueue(attempt=-1, timeout_s=TIMEOUT_S),
        )
        self._step, self._saved_step, self._failure = 0, 0, None
        self._running = asyncio.get_event_loop().create_task(self._run())

    async def _run(self):
        while True:
            await self._task_queue.wait_for_worker_group()
            self._step = self._saved_step
            try:
                while True:
                    task = self._next_task()
                    await self._task_queue.submit(task)
                    self._step += 1
                    if task.checkpoint:
                        self._saved_step = self._step
                        self._task_queue.set_checkpoint(str(self._saved_step))
            except WorkerGroupRestartedError:
                continue

    def _next_task(self):
        step = self._step + 1
        path = None if step % CHECKPOINT_EVERY_STEPS else str(self._place / str(step))
        nothing = np.zeros(0, np.float32)
        task = LearnerTask("clone", self._step, 0.1, EMPTY, nothing, nothing, 0, 0)
        return task._replace(checkpoint=path)

    async def learner_start(self, rank, world_size):
        return await self._task_queue.start(rank, world_size)

    async def learner_task(self, attempt, rank, world_size, index):
        return await self._task_queue.next_task(attempt, rank, world_size, index)

    async def learner_finished(self, attempt, index, metrics):
        await self._task_queue.finished(attempt, index, metrics)

    async def learner_progress(self):
        return self._task_queue.num_steps

    async def learner_failed(self, reason):
        self._failure = reason

    async def step(self):
        """Return how many steps are done, or raise if the driver or the learner gave up."""
        if self._running.done() or self._failure:
            raise RuntimeError(self._failure or self._running.exception())
        return self._step


def count_steps(settings):
    """Be a rank, and say in births.jsonl where it began."""
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    driver = ray.get_actor(settings["driver"], namespace=settings["namespace"])
    port = RayLearnerPort(driver, TIMEOUT_S)
    attempt, checkpoint = port.start(rank, world_size)
    step = int(checkpoint or 0)
    born = {
        "worker group": attempt,
        "rank": rank,
        "world_size": world_size,
        "step": step,
        "pool": ray.get_runtime_context().get_node_labels()["pool"],
    }
    with (Path(settings["run_dir"]) / "births.jsonl").open("a") as births:
        births.write(json.dumps(born) + "\n")
    index = 0
    while (task := port.next_task(rank, world_size, index)).kind != "stop":
        assert task.step == step
        time.sleep(STEP_S)
        step += 1
        if rank == 0:
            if task.checkpoint:
                Path(task.checkpoint).touch()
            port.finished(index, {})
        index += 1
