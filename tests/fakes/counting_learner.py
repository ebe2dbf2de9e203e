"""A learner whose policy is the number of its steps, and a driver for it, as Ray actors."""

import asyncio
import json
import time
from pathlib import Path

import ray
import ray.train

from actors.messages import SaveCheckpoint, SftStep, Stop
from alignment.mdp.trajectories import EMPTY
from cluster.learner.ray_train_host import RayLearnerPort
from cluster.learner.task_queue import LearnerTaskQueue, WorkerGroupRestartedError

TIMEOUT_S = 240.0
STEP_S = 0.05
CHECKPOINT_EVERY_STEPS = 5


class CountingDriver:
    """Submits steps, and returns to the newest checkpoint when the worker group is replaced.

    A checkpoint is an empty file named for its step. It counts once its task is done:
    a worker group that ends between the two leaves a file that the task queue does not know.
    """

    def __init__(self, folder):
        self._folder = Path(folder)
        self._task_queue = LearnerTaskQueue(attempt=-1, timeout_s=TIMEOUT_S)
        self._step, self._saved_step, self._failure = 0, 0, None
        self._running = asyncio.get_event_loop().create_task(self._run())

    async def _run(self):
        while True:
            await self._task_queue.wait_for_worker_group()
            self._step = self._saved_step
            try:
                while True:
                    await self._task_queue.submit(SftStep(self._step, 0.1, EMPTY, 0, 0))
                    self._step += 1
                    if self._step % CHECKPOINT_EVERY_STEPS == 0:
                        folder = str(self._folder / str(self._step))
                        await self._task_queue.submit(SaveCheckpoint(self._step, folder))
                        self._saved_step = self._step
                        self._task_queue.set_checkpoint(str(self._saved_step))
            except WorkerGroupRestartedError:
                continue

    async def learner_start(self, rank, world_size):
        return await self._task_queue.start(rank, world_size)

    async def learner_task(self, attempt, rank, world_size, index):
        return await self._task_queue.next_task(attempt, rank, world_size, index)

    async def learner_finished(self, attempt, index, metrics):
        await self._task_queue.finished(attempt, index, metrics)

    async def learner_progress(self):
        return self._task_queue.num_steps

    async def learner_lost(self, failure, pause_s):
        return True

    async def learner_failed(self, reason):
        self._failure = reason

    async def step(self):
        """Return the number of steps done; raise if the driver or the learner failed."""
        if self._running.done() or self._failure:
            raise RuntimeError(self._failure or self._running.exception())
        return self._step


def count_steps(settings):
    """Run one rank, which writes to births.jsonl from which step it starts."""
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
    while not isinstance(task := port.next_task(rank, world_size, index), Stop):
        assert task.step == step
        if isinstance(task, SftStep):
            time.sleep(STEP_S)
            step += 1
        if rank == 0:
            if isinstance(task, SaveCheckpoint):
                Path(task.folder).touch()
            port.finished(index, {})
        index += 1
