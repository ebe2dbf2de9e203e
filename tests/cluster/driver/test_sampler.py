import asyncio

import numpy as np
import pytest

from actors.config.objective import ObjectiveConfig
from actors.messages import Canary, Published
from alignment.mdp.trajectories import PolicyVersion
from cluster.driver.sampler import Draws, Sampler
from cluster.fleet.fleet import Fleet
from tests.fakes.demonstrations import FakeData
from tests.fakes.handle import WorkerFactory
from tests.fakes.rollout_worker import FakeRolloutWorker


@pytest.mark.parametrize(("fraction", "rollout_prompts"), [(1.0, 4), (0.5, 2), (0.25, 1), (0.0, 0)])
async def test_the_share_of_demonstrated_prompts_is_exact_in_every_step(fraction, rollout_prompts):
    objective = ObjectiveConfig(
        divergence="forward_kl",
        level="state",
        on_policy_fraction=fraction,
        prompts_per_step=4,
        group_size=2,
        max_staleness_steps=1,
        reference={"coefficient": 0.0},
    )

    async def sync(handle, published):
        await handle.call("sync_weights", published)

    fleet = Fleet("rollout", WorkerFactory(lambda _: FakeRolloutWorker()), timeout_s=5.0, sync=sync)
    fleet.announce(Published(PolicyVersion(0, 0), "", "", Canary((0,), ())))
    fleet.scale(1)
    data, num_steps = FakeData(), 3
    draws = Draws(data.row_of_draw, 0, ())
    sampler = Sampler(fleet, draws, data, objective, num_steps=num_steps, max_sequences=8, seed=0)
    for done in range(num_steps):
        # a step may be awaited before its prompts are handed out
        step = asyncio.ensure_future(sampler.step())
        await asyncio.sleep(0)
        sampler.advance(done)
        sampled = await step
        numbers = sorted(draw.number for draw in sampled.draws)
        assert numbers == list(range(4 * done, 4 * done + 4))
        batch = sampled.trajectories
        by_policy = batch.policy_versions[:, 0] >= 0
        assert by_policy.sum() == 2 * rollout_prompts
        shown = batch.select(np.flatnonzero(~by_policy))
        assert len(shown) == 4 - rollout_prompts
        expected = data.demonstrations(shown.prompt_ids)
        np.testing.assert_array_equal(shown.token_ids, expected.token_ids)
        sampler.mark_trained(sampled.draws)
    assert sampler.ledger.counts()["trained"] == 12
    assert sampler.ledger.unfinished() == []
    await fleet.close()


class Gated(FakeRolloutWorker):
    """Responds to prompt 0 only once the gate is open."""

    def __init__(self, gate):
        super().__init__()
        self._gate = gate

    async def rollout(self, request):
        if 0 in request.prompt_ids:
            await self._gate.wait()
        return await super().rollout(request)


async def test_groups_enter_steps_in_the_order_in_which_their_prompts_were_handed_out():
    objective = ObjectiveConfig(prompts_per_step=2, group_size=2, max_staleness_steps=1)

    async def sync(handle, published):
        await handle.call("sync_weights", published)

    gate = asyncio.Event()
    fleet = Fleet("rollout", WorkerFactory(lambda _: Gated(gate)), timeout_s=5.0, sync=sync)
    fleet.announce(Published(PolicyVersion(0, 0), "", "", Canary((0,), ())))
    fleet.scale(2)
    data = FakeData()
    draws = Draws(data.row_of_draw, 0, ())
    sampler = Sampler(fleet, draws, data, objective, num_steps=2, max_sequences=2, seed=0)
    sampler.advance(0)  # four prompts, each a request of its own; the first one hangs
    first = asyncio.ensure_future(sampler.step())
    while sampler.ledger.counts()["sampled"] < 3:
        await asyncio.sleep(0)
    assert not first.done()
    gate.set()
    assert [draw.number for draw in (await first).draws] == [0, 1]
    assert [draw.number for draw in (await sampler.step()).draws] == [2, 3]
    await fleet.close()
