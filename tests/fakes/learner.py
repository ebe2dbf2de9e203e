"""A gang of learner ranks in this process. Its policy is the list of what it was trained on."""

import asyncio
import json
from pathlib import Path

from actors.messages import Canary, Published
from alignment.mdp.trajectories import PolicyVersion
from cluster.learner.task_queue import SupersededError


class FakeGang:
    """Ranks that pull tasks from a LearnerDesk, as Ray's would from the driver.

    lineage holds, for every optimizer step behind the weights, (kind, prompt ids, oldest version
    sampled); a checkpoint stores it, and a gang that starts from one goes on with it.
    """

    def __init__(self, desk, published, *, world_size=1):
        self._desk, self._published, self._world_size = desk, published, world_size
        self.lineage = []
        self.incarnation = None
        self.shares = []
        self.beside = []
        self.rewards = []
        self.rates = []
        self._ranks = []
        self.hold = asyncio.Event()
        self.hold.set()

    def start(self):
        """Start all ranks, in place of those there were."""
        for rank in self._ranks:
            rank.cancel()
        self._ranks = [asyncio.ensure_future(self._guard(n)) for n in range(self._world_size)]

    async def _guard(self, rank):
        try:
            await self._rank(rank)
        except Exception as error:
            await self._desk.fail(f"rank {rank}: {error!r}")
            raise

    async def _rank(self, rank):
        start = await self._desk.start(rank, self._world_size)
        if rank == 0:
            self.incarnation, self.lineage = start.incarnation, []
            if start.checkpoint:
                self.lineage = json.loads(Path(start.checkpoint, "learner.json").read_text())
        index = 0
        while True:
            try:
                task = await self._desk.next_task(start.incarnation, rank, self._world_size, index)
            except SupersededError:
                return
            if task is None:
                continue
            if task.kind == "stop":
                return
            self.shares.append((rank, index, len(task.trajectories)))
            await self.hold.wait()
            if rank == 0:
                await self._do(task, start.incarnation, index)
            index += 1

    async def _do(self, task, incarnation, index):
        if task.kind == "prefer":
            assert task.step == len(self.lineage)
            self.lineage.append(["prefer", task.beside.comparisons.token_ids.tolist(), 0])
            self.rates.append(task.learning_rate)
        self.beside.append(task.beside)
        self.rewards.append(task.rewards.tolist() if task.kind == "imitate" else [])
        if task.kind in ("clone", "imitate"):
            versions = task.trajectories.policy_versions[:, 1].tolist()
            ids = task.trajectories.prompt_ids.tolist()
            assert task.step == len(self.lineage)
            self.lineage.append([task.kind, ids, min(versions)])
            self.rates.append(task.learning_rate)
        if task.publish:
            version = PolicyVersion(incarnation, len(self.lineage))
            self._published(Published(version, "", "", Canary((), ())))
        if task.checkpoint:
            Path(task.checkpoint, "learner.json").write_text(json.dumps(self.lineage))
        metrics = {"learner/loss": float(len(self.lineage))}
        await self._desk.finished(incarnation, index, metrics)
