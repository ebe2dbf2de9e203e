"""What a stop abandons, what it finishes, and how a run ends that fails."""

import asyncio

import pytest

from actors.errors import RewardError
from cluster.driver.stopping import StopRequestedError, unless_stopped
from cluster.fleet.fleet import FleetFailedError
from tests.fakes.doubler import turns
from tests.fakes.rollout_worker import FakeRolloutWorker
from tests.fakes.whole_run import World, draws, make_config


async def test_work_is_cancelled_by_a_stop_and_never_begun_after_one():
    begun, stop = [], asyncio.Event()

    async def work(name):
        begun.append(name)
        await asyncio.sleep(3600.0)

    waiting = asyncio.ensure_future(unless_stopped(stop, work("first")))
    await turns()
    stop.set()
    with pytest.raises(StopRequestedError):
        await waiting
    with pytest.raises(StopRequestedError):
        await unless_stopped(stop, work("second"))
    assert begun == ["first"]


class HeldRolloutWorker(FakeRolloutWorker):
    """Samples while the gate is open."""

    gate: asyncio.Event

    async def rollout(self, request):
        await self.gate.wait()
        return await super().rollout(request)


def held():
    gate = asyncio.Event()
    worker = type("Worker", (HeldRolloutWorker,), {"gate": gate})
    return gate, worker


def has_ending(world, how, iteration):
    ending = world.manifest().ending
    return (ending.how, ending.iteration) == (how, iteration)


async def test_a_stop_before_the_learner_has_started_ends_the_run_at_once(tmp_path):
    world = World(make_config(), tmp_path)  # its worker group never starts
    running = asyncio.ensure_future(world.driver.run())
    await turns()
    world.driver.request_stop()
    assert not await asyncio.wait_for(running, 5.0)
    assert has_ending(world, "stopped", 0)
    assert world.driver.progress.stage == "stopped"
    assert not (tmp_path / "checkpoints").exists()
    await world.__aexit__()
    async with World(make_config(), tmp_path) as resumed:
        assert await resumed.driver.run()
        assert draws(resumed.worker_group.history) == [number % 12 for number in range(28)]


async def test_a_stop_while_held_out_prompts_are_sampled_does_not_wait_for_them(tmp_path):
    _gate, worker = held()
    async with World(make_config(), tmp_path, make_rollout_worker=worker) as world:
        running = asyncio.ensure_future(world.driver.run())
        while world.driver.progress.phase != "sampling responses to held-out prompts":
            await asyncio.sleep(0)
        world.driver.request_stop()
        assert not await asyncio.wait_for(running, 5.0)
        assert has_ending(world, "stopped", 0)
    async with World(make_config(), tmp_path) as resumed:
        assert await resumed.driver.run()
        assert [row["phase"] for row in resumed.lines("samples.jsonl")][:4] == ["before"] * 4
        assert [row["step"] for row in resumed.lines("metrics.jsonl")] == list(range(8))


@pytest.mark.parametrize("staleness", [0, 2])
async def test_a_stop_while_a_step_is_sampled_abandons_the_step(tmp_path, staleness):
    gate, worker = held()
    gate.set()
    config = make_config(objective={"max_staleness_steps": staleness})
    async with World(config, tmp_path, make_rollout_worker=worker) as world:
        world.at(5, do=gate.clear)  # the next requests are never answered
        running = asyncio.ensure_future(world.driver.run())
        while world.driver.progress.iteration < 5 or world.driver.progress.phase != "sampling":
            await asyncio.sleep(0)
        await turns()
        world.driver.request_stop()
        assert not await asyncio.wait_for(running, 5.0)
        assert not gate.is_set()
        manifest = world.manifest()
        assert has_ending(world, "stopped", manifest.iteration)
        assert manifest.num_draws == manifest.trained_draws + len(manifest.unfinished_draws)
    async with World(config, tmp_path) as resumed:
        assert await resumed.driver.run()
        assert draws(resumed.worker_group.history) == [number % 12 for number in range(28)]


async def test_a_stop_while_a_step_is_learned_finishes_the_step(tmp_path):
    async with World(make_config(), tmp_path) as world:
        world.at(1, do=world.worker_group.hold.clear)
        running = asyncio.ensure_future(world.driver.run())
        while world.driver.progress.iteration < 1:
            await asyncio.sleep(0)
        await turns()
        world.driver.request_stop()
        await turns()
        assert not running.done()
        world.worker_group.hold.set()
        assert not await asyncio.wait_for(running, 5.0)
        assert has_ending(world, "stopped", 2)
        assert world.manifest().checkpoint == "step-000002"


async def test_a_failed_run_keeps_what_was_measured_of_the_step_that_died(tmp_path):
    async with World(make_config(), tmp_path) as world:
        world.at(5, do=lambda: setattr(world.reward, "fails_on", range(12)))
        with pytest.raises(RewardError):
            await world.driver.run()
        ending = world.manifest().ending
        assert (ending.how, ending.iteration) == ("failed", 5)
        assert ending.error.startswith("RewardError: prompt ")
        assert ending.metrics["rollout/staleness"] == 0.0
        assert "rollout/response_length" in ending.metrics
        assert [row["step"] for row in world.lines("metrics.jsonl")] == list(range(6))


async def test_a_fleet_that_fails_ends_the_run_although_nothing_waits_for_it(tmp_path):
    class Broken:
        async def sync_weights(self, published):
            raise OSError("no such model")

    async with World(make_config(), tmp_path, make_rollout_worker=Broken) as world:
        world.worker_group.hold.clear()  # the learner works for ever on its first task
        world.rollout.announce("v0")
        with pytest.raises(FleetFailedError, match="same error: OSError: no such model"):
            await asyncio.wait_for(world.driver.run(), 5.0)
        ending = world.manifest().ending
        assert (ending.how, ending.iteration) == ("failed", 0)
        assert "no such model" in ending.error
        world.worker_group.hold.set()
