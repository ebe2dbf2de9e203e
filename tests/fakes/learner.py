"""A worker group of learner ranks in this process, whose policy is the list of its steps."""

import asyncio
import json
from pathlib import Path

from actors.messages import (
    Canary,
    Evaluate,
    OnPolicyStep,
    PreferenceStep,
    Publish,
    Published,
    SaveCheckpoint,
    SftStep,
    Stop,
)
from alignment.mdp.trajectories import PolicyVersion
from cluster.learner.task_queue import SupersededError


class FakeWorkerGroup:
    """Ranks that pull tasks from a LearnerTaskQueue, as Ray Train's ranks do through the driver.

    history holds (type of task, prompt ids, oldest version sampled) of every optimizer step that
    led to the weights. A checkpoint stores it, and a worker group that starts from one restores it.
    """

    def __init__(self, task_queue, published, *, world_size=1):
        self._task_queue, self._published, self._world_size = task_queue, published, world_size
        self.history = []
        self.attempt = None
        self.shares = []
        self.auxiliary = []
        self.rewards = []
        self.rates = []
        self.begins_stage = []  # which optimizer steps clear the optimizer, counted from 0
        self.unknown_fraction = 0.0  # of every step's tokens, whose weights it lacks
        self.skips = set()  # which optimizer steps, from 1, say that they were skipped
        self._ranks = []
        self.hold = asyncio.Event()
        self.hold.set()

    def start(self):
        """Start all ranks, in place of the old ones."""
        for rank in self._ranks:
            rank.cancel()
        self._ranks = [asyncio.ensure_future(self._guard(n)) for n in range(self._world_size)]

    async def _guard(self, rank):
        try:
            await self._rank(rank)
        except Exception as error:
            await self._task_queue.fail(f"rank {rank}: {error!r}")
            raise

    async def _rank(self, rank):
        start = await self._task_queue.start(rank, self._world_size)
        if rank == 0:
            self.attempt, self.history = start.attempt, []
            if start.checkpoint:
                self.history = json.loads(Path(start.checkpoint, "learner.json").read_text())
        index = 0
        while True:
            try:
                task = await self._task_queue.next_task(
                    start.attempt, rank, self._world_size, index
                )
            except SupersededError:
                return
            if task is None:
                continue
            if isinstance(task, Stop):
                return
            self.shares.append((rank, index, len(getattr(task, "trajectories", ()))))
            await self.hold.wait()
            if rank == 0:
                await self._do(task, start.attempt, index)
            index += 1

    async def _do(self, task, attempt, index):
        match task:
            case SftStep() | OnPolicyStep():
                versions = task.trajectories.policy_versions[:, 1].tolist()
                ids = task.trajectories.prompt_ids.tolist()
                self._step(task, ids, min(versions))
            case PreferenceStep():
                self._step(task, task.auxiliary.comparisons.trajectories.token_ids.tolist(), 0)
            case SaveCheckpoint():
                Path(task.folder, "learner.json").write_text(json.dumps(self.history))
                Path(task.folder, "policy").mkdir(exist_ok=True)
                Path(task.folder, "policy", "steps").write_text(str(len(self.history)))
        if getattr(task, "auxiliary", None):
            self.auxiliary.append(task.auxiliary)
        if isinstance(task, OnPolicyStep):
            self.rewards.append(task.rewards.tolist())
        if isinstance(task, Publish) or getattr(task, "publish", False):
            version = PolicyVersion(attempt, len(self.history))
            self._published(Published(version, "", "", Canary((), ())))
        await self._task_queue.finished(attempt, index, self._metrics(task))

    def _metrics(self, task):
        metrics = {
            "learner/loss": float(len(self.history)),
            "learner/staleness_unknown_fraction": self.unknown_fraction,
        }
        if isinstance(task, Evaluate):
            metrics["eval/held_out_nll"] = float(len(self.history))
        if len(self.history) in self.skips:
            metrics["learner/skipped_not_finite"] = 1.0
        return metrics

    def _step(self, task, ids, oldest):
        assert task.step == len(self.history)
        if getattr(task, "begins_stage", False):
            self.begins_stage.append(task.step)
        self.history.append([type(task).__name__, ids, oldest])
        self.rates.append(task.learning_rate)
