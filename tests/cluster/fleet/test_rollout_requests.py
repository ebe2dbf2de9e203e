import numpy as np
import pytest

from actors.messages import Canary, Published
from actors.rollout.worker import response_seeds
from alignment.mdp.trajectories import PolicyVersion
from cluster.fleet.fleet import Fleet
from cluster.fleet.rollout_requests import prompts_per_request, request_rollouts, rollout_request
from tests.fakes.demonstrations import FakeData
from tests.fakes.handle import WorkerFactory
from tests.fakes.rollout_worker import FakeRolloutWorker


@pytest.mark.parametrize(
    ("num_prompts", "group_size", "max_sequences", "num_workers", "size"),
    [
        (12, 2, 100, 1, 12),
        (12, 2, 100, 5, 3),  # 12 / 5, rounded up
        (12, 2, 8, 1, 4),  # 8 responses at the same time
        (12, 9, 8, 1, 1),  # a group larger than that is not divided
        (12, 2, 8, 0, 4),  # a paused fleet counts as one worker
        (0, 2, 8, 1, 1),
    ],
)
def test_prompts_are_divided_over_workers_up_to_the_sequences_of_one(
    num_prompts, group_size, max_sequences, num_workers, size
):
    options = {"max_sequences": max_sequences, "num_workers": num_workers}
    assert prompts_per_request(num_prompts, group_size=group_size, **options) == size


def test_the_seed_of_a_request_follows_from_the_run_and_the_number():
    data = FakeData()
    request = rollout_request(data, [4, 7], group_size=3, run_seed=5, number=2)
    assert (request.prompt_ids, request.group_size) == ((4, 7), 3)
    assert request.seed == 5 * 1_000_003 + 2
    for row, prompt in zip((4, 7), request.prompts, strict=True):
        np.testing.assert_array_equal(prompt, data.prompt_tokens(row))
    assert rollout_request(data, [4], group_size=1, run_seed=2**31, number=1).seed == 1


def test_no_two_responses_of_runs_stages_and_resumes_share_a_seed():
    """Two workers share a step's draws; a resumed run goes on with new numbers of draws."""
    data, seeds = FakeData(), []
    for run_seed in (0, 1, -1):
        for number in range(0, 4000, 2):
            request = rollout_request(data, [1, 2], group_size=8, run_seed=run_seed, number=number)
            seeds += response_seeds(request.seed, 16)
    assert len(set(seeds)) == len(seeds) == 3 * 2000 * 16


class WrongOrder(FakeRolloutWorker):
    """Returns the responses in reverse."""

    async def rollout(self, request):
        result = await super().rollout(request)
        batch = result.trajectories
        return result._replace(trajectories=batch.select(np.arange(len(batch))[::-1]))


@pytest.mark.parametrize("worker", [FakeRolloutWorker, WrongOrder])
async def test_responses_are_those_of_the_prompts_in_their_order(worker):
    async def sync(handle, published):
        await handle.call("sync_weights", published)

    fleet = Fleet("rollout", WorkerFactory(lambda _: worker()), timeout_s=5.0, sync=sync)
    fleet.announce(Published(PolicyVersion(0, 0), "", "", Canary((0,), ())))
    fleet.scale(1)
    request = rollout_request(FakeData(), [4, 7], group_size=2, run_seed=0, number=0)
    if worker is WrongOrder:
        with pytest.raises(RuntimeError, match="responses to other prompts than requested"):
            await request_rollouts(fleet, request)
    else:
        result = await request_rollouts(fleet, request)
        assert result.trajectories.prompt_ids.tolist() == [4, 4, 7, 7]
    await fleet.close()
