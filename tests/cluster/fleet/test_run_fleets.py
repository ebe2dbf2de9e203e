"""What becomes of a run whose engines do not compute with the published weights."""

import pytest

from actors.errors import WeightMismatchError
from actors.messages import Canary, Published, Synced
from alignment.mdp.trajectories import PolicyVersion
from cluster.fleet.fleet import Fleet, FleetFailedError
from cluster.fleet.run_fleets import WeightSync
from tests.fakes.handle import WorkerFactory

PUBLISHED = Published(PolicyVersion(0, 5), "", "", Canary((), ()))


class Engine:
    """Fails its canary if it has one of these numbers."""

    def __init__(self, number, failing):
        self._fails, self.number = number in failing, number

    async def sync_weights(self, published):
        if self._fails:
            raise WeightMismatchError(
                f"weights {published.version} failed their canary: engine and learner differ by "
                "0.3 nats a token, more than 0.2; if new workers fail too, set rollout.dtype to "
                "float32"
            )
        return Synced(published.version)

    async def rollout(self):
        return self.number


class World:
    def __init__(self, failing):
        self.repairs, self.factory = [], WorkerFactory(lambda number: Engine(number, failing))

        async def repair(damage):
            self.repairs.append(str(damage))

        async def at_once(_pause_s):
            pass

        self.fleet = Fleet(
            "rollout",
            self.factory,
            timeout_s=5.0,
            sync=WeightSync(repair, self.repairs.append),
            pause=at_once,
        )
        self.fleet.announce(PUBLISHED)
        self.fleet.scale(1)


async def test_an_engine_that_fails_is_replaced_by_one_that_computes_with_the_weights():
    world = World(failing={0})
    assert await world.fleet.request("rollout") == 1
    assert len(world.repairs) == 1
    assert world.factory.handles["rollout-0"].calls == ["sync_weights"] * 2
    await world.fleet.close()


async def test_a_second_engine_that_fails_in_the_same_way_ends_the_run_with_value_and_remedy():
    world = World(failing=range(9))
    with pytest.raises(FleetFailedError, match=r"0\.3 nats .* more than 0\.2.* rollout\.dtype"):
        await world.fleet.request("rollout")
    assert list(world.factory.handles) == ["rollout-0", "rollout-1"]
    await world.fleet.close()
