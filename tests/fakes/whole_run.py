"""A whole run in this process: real driver, fleets, task queue and manifest; fake workers."""

import asyncio
import json

import numpy as np

from actors.errors import RewardError
from cluster.config.run_config import RunConfig
from cluster.driver.checkpoints import RunRecord
from cluster.driver.driver import Driver, RunWorkers
from cluster.driver.preference_batches import PreferenceBatches
from cluster.driver.scorer import Scorer
from cluster.fleet.fleet import Fleet, Reports
from cluster.fleet.score_requests import RewardFleet, Scorers
from cluster.learner.task_queue import LearnerTaskQueue
from cluster.run_state.manifest import load_manifest
from tests.fakes.demonstrations import FakeData
from tests.fakes.handle import WorkerFactory
from tests.fakes.learner import FakeWorkerGroup
from tests.fakes.rollout_worker import FakeRolloutWorker


class SumReward:
    """The sum of a response's token ids; fails on some prompts, and may name them."""

    def __init__(self):
        self.fails_on = ()
        self.names_prompts = True

    def score(self, trajectories, expert_responses):
        failed = [row for row in trajectories.prompt_ids.tolist() if row in self.fails_on]
        if failed:
            named = failed if self.names_prompts else ()
            raise RewardError(f"prompt {failed[0]} has no reward", named)
        assert expert_responses == [f"expert {row}" for row in trajectories.prompt_ids]
        rows = range(len(trajectories))
        return np.asarray([trajectories.response(row).sum() for row in rows], np.float32)


def make_config(**sections):
    objective = {"steps": 4, "prompts_per_step": 4, "group_size": 2, "divergence_weight": 0.0}
    objective |= sections.pop("objective", {})
    return RunConfig.model_validate(
        {
            "name": "test",
            "model": {"name": "tiny"},
            "data": {"path": "unused", "max_prompt_tokens": 8, "max_response_tokens": 8},
            "sft": {"steps": 3, "prompts_per_step": 4, "learning_rate": 0.1},
            "objective": objective,
            "rewards": [{"function": "tests:sum"}],
            "evaluation": {"every_steps": 2, "num_prompts": 4},
            "learner": {"checkpoint_every_steps": 5},
            **sections,
        }
    )


class World:
    """All parts of a run; `async with` starts the worker group."""

    def __init__(
        self,
        config,
        run_dir,
        *,
        world_size=1,
        num_rollout_workers=1,
        make_rollout_worker=FakeRolloutWorker,
        make_discriminator=None,
        worker_group=FakeWorkerGroup,
        comparisons=None,
    ):
        self.config, self.run_dir = config, run_dir
        self.rollouts = WorkerFactory(lambda _: make_rollout_worker())
        manifest = load_manifest(run_dir, config.name)
        self.task_queue = LearnerTaskQueue(manifest.attempt, timeout_s=60.0)
        self.events = []
        keeps = config.rollout.interrupt == "keep"
        self.rollout = self._fleet("rollout", self.rollouts, self._sync, keeps)
        self.reward = SumReward()
        self._fleets = [self.rollout]
        self.discriminator = None
        if make_discriminator:
            factory = WorkerFactory(lambda _: make_discriminator())
            self.discriminator = self._fleet("discriminator", factory, self._load)
            self._fleets.append(self.discriminator)
        rewards = {}
        for source in config.rewards:
            fleet = self._fleet("sum", WorkerFactory(lambda _: self.reward), None)
            rewards["sum"] = RewardFleet(fleet, 0.5, source.on_error)
            self._fleets.append(fleet)
        data = FakeData()
        scorers = Scorers(self.discriminator, None, rewards)
        scorer = self.scorer = Scorer(scorers, data, config.objective.level, run_dir / "shared")
        workers = RunWorkers(
            self.rollout, scorer, self.task_queue, PreferenceBatches(config, data, comparisons)
        )
        record = RunRecord(run_dir, manifest)
        record.claim()
        self.driver = Driver(config, data, workers, record)
        self.worker_group = worker_group(
            self.task_queue, self.driver.published, world_size=world_size
        )
        self.rollout.scale(num_rollout_workers)
        for fleet in self._fleets[1:]:
            fleet.scale(1)

    @staticmethod
    async def _sync(handle, published):
        await handle.call("sync_weights", published)

    @staticmethod
    async def _load(handle, version):
        await handle.call("load", version[-1])

    def _fleet(self, kind, factory, sync, syncs_while_serving=False):
        async def no_pause(_seconds):
            await asyncio.sleep(0)

        return Fleet(
            kind,
            factory,
            timeout_s=60.0,
            sync=sync,
            syncs_while_serving=syncs_while_serving,
            reports=Reports(self.events.append),
            pause=no_pause,
        )

    async def __aenter__(self):
        self.worker_group.start()
        return self

    async def __aexit__(self, *_):
        await self.task_queue.close()
        for fleet in self._fleets:
            await fleet.close()

    def at(self, *iterations, do):
        """Call a function once at the end of each of these iterations."""
        left = set(iterations)

        def call(_metrics):
            if self.driver.progress.iteration in left:
                left.remove(self.driver.progress.iteration)
                do()

        self.driver.on_step = call

    def lines(self, name):
        return [json.loads(line) for line in (self.run_dir / name).read_text().splitlines()]

    def manifest(self):
        return load_manifest(self.run_dir, self.config.name)


def draws(history, group_size=2):
    """Return the prompts that a history was trained on, in order, once per group."""
    ids = []
    for kind, prompt_ids, _ in history:
        ids += prompt_ids[:: group_size if kind == "OnPolicyStep" else 1]
    return ids
