import numpy as np
import pytest

from actors.messages import Canary, Published
from alignment.mdp.trajectories import PolicyVersion
from cluster.driver.evaluation import Evaluator
from cluster.fleet.fleet import Fleet
from tests.fakes.demonstrations import FakeData
from tests.fakes.handle import WorkerFactory
from tests.fakes.rollout_worker import FakeRolloutWorker


def make_evaluator(num_prompts, num_held_out=100):
    async def sync(handle, published):
        await handle.call("sync_weights", published)

    workers = WorkerFactory(lambda _: FakeRolloutWorker())
    fleet = Fleet("rollout", workers, timeout_s=5.0, sync=sync)
    data = FakeData(num_held_out=num_held_out)
    return Evaluator(fleet, data, num_prompts, max_sequences=8), data


def test_the_sample_is_always_the_same_and_random_over_the_held_out_rows():
    (first, data), (second, _) = make_evaluator(20), make_evaluator(20)
    rows = first.demonstrations().prompt_ids
    np.testing.assert_array_equal(rows, second.demonstrations().prompt_ids)
    assert len(set(rows.tolist())) == 20
    assert set(rows.tolist()) <= set(data.held_out_rows.tolist())
    assert rows.max() > data.held_out_rows[50] > rows.min()


async def test_groups_are_as_many_responses_to_fewer_prompts_of_the_sample():
    evaluator, _ = make_evaluator(20)
    evaluator._rollout.announce(Published(PolicyVersion(0, 0), "", "", Canary((), ())))
    evaluator._rollout.scale(1)
    groups = await evaluator.groups(4)
    rows = evaluator.demonstrations().prompt_ids[::4]
    np.testing.assert_array_equal(groups.prompt_ids, np.repeat(rows, 4))
    np.testing.assert_array_equal((await evaluator.responses()).prompt_ids, evaluator._rows)
    await evaluator._rollout.close()


def test_a_held_out_set_smaller_than_num_prompts_is_taken_whole():
    evaluator, data = make_evaluator(20, num_held_out=3)
    np.testing.assert_array_equal(evaluator.demonstrations().prompt_ids, data.held_out_rows)


@pytest.mark.parametrize(("num_workers", "sizes"), [(1, [6]), (2, [3, 3]), (4, [2, 2, 2])])
async def test_the_prompts_are_spread_over_the_workers(num_workers, sizes):
    requests = []

    class Worker(FakeRolloutWorker):
        def __init__(self):
            super().__init__()
            self.version = PolicyVersion(0, 0)

        async def rollout(self, request):
            requests.append(request)
            return await super().rollout(request)

    fleet = Fleet("rollout", WorkerFactory(lambda _: Worker()), timeout_s=5.0)
    fleet.scale(num_workers)
    evaluator = Evaluator(fleet, FakeData(num_held_out=100), 6, max_sequences=8)
    responses = await evaluator.responses()
    assert [len(request.prompts) for request in requests] == sizes
    rows = evaluator.demonstrations().prompt_ids
    np.testing.assert_array_equal(responses.prompt_ids, rows)
    await fleet.close()
