import asyncio
import json

import numpy as np
import pytest

from actors.errors import RewardError
from cluster.config import RunConfig
from cluster.driver import Driver, Workforce
from cluster.fleet import Fleet
from cluster.learner_desk import LearnerDesk, LearnerFailedError
from cluster.manifest import load_manifest
from cluster.scoring import Judges, RewardFleet, Scorer
from tests.fakes.demonstrations import FakeData
from tests.fakes.handle import Workshop
from tests.fakes.learner import FakeGang
from tests.fakes.rollout_worker import FakeRolloutWorker


class SumReward:
    fails_on = None

    def score(self, trajectories, expert_responses):
        if self.fails_on in trajectories.prompt_ids:
            raise RewardError(f"prompt {self.fails_on} has no reward")
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
            "warm_start": {"steps": 3, "prompts_per_step": 4, "learning_rate": 0.5},
            "objective": objective,
            "rewards": [{"function": "tests:sum"}],
            "evaluation": {"every_steps": 2, "num_prompts": 4},
            "learner": {"checkpoint_every_steps": 5},
            **sections,
        }
    )


class World:
    """A whole run in this process: real driver, fleets, desk and manifest; fake workers."""

    def __init__(self, config, run_dir, *, world_size=1, num_rollout_workers=1):
        self.config, self.run_dir = config, run_dir
        self.rollouts = Workshop(lambda _: FakeRolloutWorker())
        manifest = load_manifest(run_dir, config.name)
        self.desk = LearnerDesk(manifest.incarnation, timeout_s=5.0)
        self.events = []
        self.rollout = self._fleet("rollout", self.rollouts, self._sync)
        self.reward = SumReward()
        rewards = self._fleet("sum", Workshop(lambda _: self.reward), None)
        data = FakeData()
        judges = Judges(None, None, {"sum": RewardFleet(rewards, 0.5)})
        scorer = Scorer(judges, data, config.objective.level, run_dir / "shared")
        workforce = Workforce(self.rollout, scorer, self.desk)
        self.driver = Driver(config, run_dir, data, workforce, manifest)
        self.gang = FakeGang(self.desk, self.driver.published, world_size=world_size)
        self.rollout.scale(num_rollout_workers)
        rewards.scale(1)
        self._fleets = [self.rollout, rewards]

    @staticmethod
    async def _sync(handle, published):
        await handle.call("sync_weights", published)

    def _fleet(self, kind, workshop, sync):
        async def no_pause(_seconds):
            await asyncio.sleep(0)

        return Fleet(
            kind, workshop, timeout_s=5.0, sync=sync, on_event=self.events.append, pause=no_pause
        )

    async def __aenter__(self):
        self.gang.start()
        return self

    async def __aexit__(self, *_):
        await self.desk.close()
        for fleet in self._fleets:
            await fleet.close()

    def lines(self, name):
        return [json.loads(line) for line in (self.run_dir / name).read_text().splitlines()]


def draws(lineage, group_size=2):
    """Every prompt a lineage was trained on, in order, once a group."""
    ids = []
    for kind, prompt_ids, _ in lineage:
        ids += prompt_ids[:: group_size if kind == "imitate" else 1]
    return ids


async def test_a_run_trains_on_every_draw_once_and_is_strictly_on_policy(tmp_path):
    async with World(make_config(), tmp_path) as world:
        assert await world.driver.run()
        assert [kind for kind, _, _ in world.gang.lineage] == ["clone"] * 3 + ["imitate"] * 4
        assert draws(world.gang.lineage) == [number % 12 for number in range(28)]
        # Each on-policy step samples from exactly the weights of the step before.
        assert [oldest for _, _, oldest in world.gang.lineage[3:]] == [3, 4, 5, 6]


async def test_a_run_leaves_its_metrics_samples_checkpoint_and_manifest(tmp_path):
    async with World(make_config(), tmp_path) as world:
        await world.driver.run()
        rows = world.lines("metrics.jsonl")
        assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 5, 6, 7]
        stages = ["warm_start"] * 4 + ["imitation"] * 4
        assert [row["stage"] for row in rows] == stages
        for row in rows[4:]:
            assert row["rollout/staleness"] == 0.0
            assert row["reward/sum"] > 0
            assert row["time/step_s"] >= row["time/learning_s"] > 0
        phases = [row["phase"] for row in world.lines("samples.jsonl")]
        assert phases == ["before"] * 4 + ["after_warm_start"] * 4 + ["after"] * 4
        manifest = load_manifest(tmp_path, "test")
        assert (manifest.step, manifest.iteration, manifest.is_finished) == (7, 7, True)
        assert (manifest.num_draws, manifest.unfinished_draws) == (28, [])
        assert (tmp_path / "checkpoints" / manifest.checkpoint / "learner.json").exists()
        kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
        assert kept == ["step-000005", "step-000007"]


async def test_the_reward_that_reaches_the_learner_is_the_weighted_sum(tmp_path):
    async with World(make_config(), tmp_path) as world:
        seen = []
        submit = world.desk.submit

        async def note(task):
            seen.append(task)
            return await submit(task)

        world.desk.submit = note
        await world.driver.run()
        task = next(task for task in seen if task.kind == "imitate")
        batch = task.trajectories
        sums = [batch.response(row).sum() for row in range(len(batch))]
        np.testing.assert_allclose(task.rewards, 0.5 * np.asarray(sums))
        assert task.num_sequences == 8
        assert task.num_action_tokens == sum(len(batch.response(row)) for row in range(8))


async def test_learning_rates_follow_the_stages(tmp_path):
    async with World(make_config(objective={"learning_rate": 2.0}), tmp_path) as world:
        await world.driver.run()
        np.testing.assert_allclose(world.gang.rates[:3], [0.1, 0.2, 0.3])
        np.testing.assert_allclose(world.gang.rates[3:], [0.4, 0.8, 1.2, 1.6])


async def test_ranks_share_whole_groups(tmp_path):
    async with World(make_config(), tmp_path, world_size=2) as world:
        await world.driver.run()
        sizes = {}
        for rank, index, size in world.gang.shares:
            sizes.setdefault(index, {})[rank] = size
        assert {tuple(sorted(share.items())) for share in sizes.values()} == {
            ((0, 0), (1, 0)),  # publish and checkpoint carry nothing
            ((0, 2), (1, 2)),  # clone and evaluate: 4 rows
            ((0, 4), (1, 4)),  # imitate: 4 groups of 2
        }


@pytest.mark.parametrize("num_workers", [1, 3])
async def test_staleness_never_exceeds_its_bound(tmp_path, num_workers):
    config = make_config(objective={"steps": 8, "max_staleness_steps": 2})
    async with World(config, tmp_path, num_rollout_workers=num_workers) as world:
        await world.driver.run()
        steps = [oldest for _, _, oldest in world.gang.lineage[3:]]
        lags = [step - oldest for step, oldest in enumerate(steps, start=3)]
        assert max(lags) <= 2
        assert max(lags) > 0  # it really ran ahead
        assert sorted(draws(world.gang.lineage)) == sorted(number % 12 for number in range(44))


async def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    whole.mkdir()
    halves.mkdir()
    async with World(make_config(), whole) as world:
        await world.driver.run()
        expected = world.gang.lineage
        samples = world.lines("samples.jsonl")
    for stop_at in (2, 4, 6, None):
        async with World(make_config(), halves) as world:
            end_iteration = world.driver._journal.metrics

            def stop_there(iteration, *args, end_iteration=end_iteration, world=world, at=stop_at):
                end_iteration(iteration, *args)
                if iteration == at:
                    world.driver.request_stop()

            world.driver._journal.metrics = stop_there
            assert await world.driver.run() is (stop_at is None)
            lineage = world.gang.lineage
    assert lineage == expected
    phases = [(row["phase"], row["prompt_id"]) for row in world.lines("samples.jsonl")]
    assert phases == [(row["phase"], row["prompt_id"]) for row in samples]
    assert world.gang.incarnation == 3


async def test_a_restarted_learner_sends_the_run_back_to_its_checkpoint(tmp_path):
    config = make_config(objective={"steps": 8})
    async with World(config, tmp_path) as world:
        metrics = world.driver._journal.metrics
        restarts = []

        def restart_once(iteration, *args):
            metrics(iteration, *args)
            if iteration == 7 and not restarts:
                restarts.append(iteration)
                world.gang.start()

        world.driver._journal.metrics = restart_once
        assert await world.driver.run()
        assert draws(world.gang.lineage) == [number % 12 for number in range(44)]
        assert world.gang.incarnation == 1
        manifest = load_manifest(tmp_path, "test")
        assert manifest.incarnation == 1
        assert [e.what for e in manifest.events] == [
            "the learner was restarted; the run goes on from step 5"
        ]


async def test_killed_rollout_workers_cost_nothing_but_time(tmp_path):
    async with World(make_config(), tmp_path, num_rollout_workers=2) as world:
        metrics = world.driver._journal.metrics

        def kill(iteration, *args):
            metrics(iteration, *args)
            for handle in world.rollouts.handles.values():
                handle.kill()

        world.driver._journal.metrics = kill
        assert await world.driver.run()
        assert draws(world.gang.lineage) == [number % 12 for number in range(28)]
        assert [oldest for _, _, oldest in world.gang.lineage[3:]] == [3, 4, 5, 6]


async def test_a_learner_that_was_given_up_ends_the_run_with_its_error(tmp_path):
    async with World(make_config(), tmp_path) as world:
        world.gang.hold.clear()
        run = asyncio.ensure_future(world.driver.run())
        await asyncio.sleep(0.05)
        await world.desk.fail("the learner failed 5 times in a row; the last error: no memory")
        with pytest.raises(LearnerFailedError, match="no memory"):
            await run


async def test_an_error_of_a_reward_ends_the_run_and_is_never_a_reward_of_zero(tmp_path):
    async with World(make_config(), tmp_path) as world:
        world.reward.fails_on = 7
        with pytest.raises(RewardError, match="prompt 7 has no reward"):
            await world.driver.run()
        assert [kind for kind, _, _ in world.gang.lineage] == ["clone"] * 3 + ["imitate"]
