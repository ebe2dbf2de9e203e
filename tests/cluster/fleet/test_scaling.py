import asyncio

import pytest

from actors.config.objective import ObjectiveConfig
from actors.messages import Canary, Published
from alignment.mdp.trajectories import PolicyVersion
from cluster.config.run_config import AutoscaleConfig, RunConfig
from cluster.config.worker_counts import job_sizes, resized
from cluster.driver.sampler import Draws, Sampler
from cluster.fleet.autoscaler import NUM_STEPS
from cluster.fleet.fleet import Fleet
from cluster.fleet.scaling import FleetScaler
from cluster.run_state.manifest import Manifest, load_manifest, save_manifest
from tests.fakes.demonstrations import FakeData
from tests.fakes.handle import WorkerFactory
from tests.fakes.rollout_worker import FakeRolloutWorker


def make_config(**sections):
    return RunConfig.model_validate(
        {
            "name": "test",
            "model": {"name": "tiny"},
            "data": {"path": "unused", "max_prompt_tokens": 8, "max_response_tokens": 8},
            "rollout": {"num_workers": 3},
            "discriminator": {"num_workers": 2},
            "rewards": [
                {"function": "tests:sum"},
                {"function": "others:sum", "num_workers": 4},
            ],
            **sections,
        }
    )


def test_job_sizes_names_every_fleet_of_a_run():
    config = make_config()
    assert job_sizes(config) == {"rollout": 3, "discriminator": 2, "sum": 1, "sum-1": 4}
    taught = make_config(teacher={"model": "larger", "num_workers": 5}, rewards=[])
    assert job_sizes(taught) == {"rollout": 3, "teacher": 5}


def test_a_reward_source_never_has_the_name_of_another_kind():
    config = make_config(rewards=[{"model": "org/teacher"}, {"model": "org/teacher"}])
    assert job_sizes(config) == {"rollout": 3, "discriminator": 2, "teacher-0": 1, "teacher-1": 1}


def test_a_resized_job_differs_only_in_the_requested_sizes():
    config = make_config()
    sizes = {"rollout": 0, "sum-1": 2}
    changed = resized(config, sizes)
    assert job_sizes(changed) == job_sizes(config) | sizes
    assert resized(changed, job_sizes(config)) == config
    assert resized(config, {}) == config


@pytest.mark.parametrize("kind", ["rollout", "discriminator", "teacher", "sum", "sum-1"])
async def test_a_kind_keeps_its_scaled_size_when_the_driver_restarts(kind, tmp_path):
    config = make_config(teacher={"model": "larger"}) if kind == "teacher" else make_config()
    sizes = job_sizes(config)
    fleets = [Fleet(each, WorkerFactory(lambda _: object()), timeout_s=5.0) for each in sizes]
    for fleet in fleets:
        fleet.scale(sizes[fleet.kind])

    def save(_, requested):
        save_manifest(tmp_path, Manifest(name="test", target_workers=dict(requested)))

    async def share():
        pass

    await FleetScaler(fleets, share, None, save, {}).scale({kind: 7})
    restarted = resized(config, load_manifest(tmp_path, "test").target_workers)
    assert job_sizes(restarted) == sizes | {kind: 7}
    assert RunConfig.model_validate_json(restarted.model_dump_json()) == restarted
    for fleet in fleets:
        await fleet.close()


class Run:
    """The fleets of a run in this process, and the events about their sizes."""

    def __init__(self, *, autoscale=None, requested=None, rollout=1):
        self.rollouts = WorkerFactory(lambda _: FakeRolloutWorker())
        self.notes, self.shares = [], []
        self.rollout = self._fleet("rollout", self.rollouts, self._sync)
        self.discriminator = self._fleet("discriminator", WorkerFactory(lambda _: object()))
        self.rollout.announce(Published(PolicyVersion(0, 0), "", "", Canary((0,), ())))
        self.rollout.scale(rollout)
        self.discriminator.scale(1)
        self.scaler = FleetScaler(
            [self.rollout, self.discriminator],
            self._share,
            autoscale,
            lambda text, sizes: self.notes.append((text, sizes)),
            requested or {},
        )

    @staticmethod
    async def _sync(handle, published):
        await handle.call("sync_weights", published)

    @staticmethod
    def _fleet(kind, factory, sync=None):
        return Fleet(kind, factory, timeout_s=5.0, sync=sync)

    async def _share(self):
        self.shares.append(self.discriminator.target_size)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.rollout.close()
        await self.discriminator.close()


async def turns(count=50):
    for _ in range(count):
        await asyncio.sleep(0)


async def test_each_change_is_reported_with_all_requested_sizes():
    async with Run(requested={"sum": 2}) as run:
        assert await run.scaler.scale({"rollout": 4}) == ["rollout scaled from 1 to 4"]
        sentences = await run.scaler.scale({"rollout": 4, "discriminator": 2})
        assert sentences == ["rollout stays at 4", "discriminator scaled from 1 to 2"]
        assert run.notes == [
            ("rollout scaled from 1 to 4", {"sum": 2, "rollout": 4}),
            ("discriminator scaled from 1 to 2", {"sum": 2, "rollout": 4, "discriminator": 2}),
        ]
        assert (run.rollout.target_size, run.discriminator.target_size) == (4, 2)


async def test_a_second_discriminator_starts_only_after_the_first_has_shared_its_weights():
    async with Run() as run:
        await run.scaler.scale({"discriminator": 3})
        assert run.shares == [1]
        await run.scaler.scale({"discriminator": 4})  # these share after every update anyway
        await run.scaler.scale({"discriminator": 1})
        assert run.shares == [1]


async def test_a_pause_and_its_end_are_reported():
    async with Run(rollout=2) as run:
        assert not run.scaler.is_paused
        await run.scaler.scale({"rollout": 0})
        assert run.scaler.is_paused
        await run.scaler.scale({"rollout": 5})
        assert not run.scaler.is_paused
        assert run.notes == [
            ("rollout scaled from 2 to 0: the run is paused", {"rollout": 0}),
            ("rollout scaled from 0 to 5: the run resumes", {"rollout": 5}),
        ]


async def test_a_paused_run_that_stops_resumes_with_the_size_of_its_job():
    async with Run(requested={"discriminator": 1, "rollout": 0}, rollout=0) as run:
        run.scaler.end_pause()
        assert [sizes for _, sizes in run.notes] == [{"discriminator": 1}]
        run.scaler.end_pause()
        assert len(run.notes) == 1


async def test_no_prompt_is_lost_or_sampled_twice_while_the_fleet_grows_shrinks_and_pauses():
    objective = ObjectiveConfig(prompts_per_step=12, group_size=2, max_staleness_steps=1)
    sizes = iter([4, 2, 0, 3, 1, 0, 2, 5, 1, 1])
    async with Run() as run:
        data, num_steps = FakeData(), 10
        draws = Draws(data.row_of_draw, 0, ())
        sampler = Sampler(
            run.rollout, draws, data, objective, num_steps=num_steps, max_sequences=4, seed=0
        )
        trained = []
        for done in range(num_steps):
            sampler.advance(done)
            step = asyncio.ensure_future(sampler.step())
            await turns(7 * done)  # somewhere in the middle of responses
            size = next(sizes)
            await run.scaler.scale({"rollout": size})
            if size == 0:
                await turns(2000)
                assert run.rollout.status() == []
                await run.scaler.scale({"rollout": 1})
            sampled = await step
            trained += [draw.number for draw in sampled.draws]
            sampler.mark_trained(sampled.draws)
        assert sorted(trained) == list(range(12 * num_steps))
        assert sampler.ledger.counts()["trained"] == 12 * num_steps
        assert sampler.ledger.unfinished() == []


LIMITS = AutoscaleConfig(min_workers=1, max_workers=8)
STARVED = {"time/step_s": 2.0, "time/learning_s": 1e-6, "time/sampling_s": 1.999999}


async def work(run):
    """Let a worker be busy for a moment."""
    worker = next(iter(run.rollouts.handles.values())).worker
    worker.delay_next(0.001)
    await run.rollout.request("sync_weights", Published(PolicyVersion(0, 0), "", "", None))


async def test_the_autoscaler_resizes_the_rollout_fleet_and_gives_the_reason():
    async with Run(autoscale=LIMITS) as run:
        await turns()
        for _ in range(NUM_STEPS):
            assert run.rollout.target_size == 1
            await work(run)
            run.scaler.after_step(STARVED)
        assert run.rollout.target_size == 8
        (text, sizes), *others = run.notes
        assert text.startswith("rollout scaled from 1 to 8: sampling took ")
        assert (sizes, others) == ({"rollout": 8}, [])


async def test_steps_during_which_workers_start_are_ignored():
    async with Run(autoscale=LIMITS) as run:
        for _ in range(NUM_STEPS):
            run.scaler.after_step(STARVED)  # the worker has had no turn to start yet
        await turns()
        for _ in range(NUM_STEPS - 1):
            await work(run)
            run.scaler.after_step(STARVED)
        assert run.rollout.target_size == 1
        await work(run)
        run.scaler.after_step(STARVED)
        assert run.rollout.target_size == 8


@pytest.mark.parametrize(("autoscale", "rollout"), [(None, 1), (LIMITS, 0)])
async def test_without_autoscale_or_in_a_pause_the_size_does_not_change(autoscale, rollout):
    async with Run(autoscale=autoscale, rollout=rollout) as run:
        await turns()
        for _ in range(2 * NUM_STEPS):
            if rollout:
                await work(run)
            run.scaler.after_step(STARVED)
        assert run.rollout.target_size == rollout
        assert run.notes == []
