"""Published weights whose file is damaged before a worker reads them."""

import asyncio

import pytest
import torch

from actors.errors import WeightMismatchError
from actors.messages import Canary, Publish
from actors.weights.store import WeightStore
from alignment.mdp.trajectories import PolicyVersion
from cluster.fleet.run_fleets import WeightSync
from cluster.learner.task_queue import LearnerTaskQueue
from tests.fakes.handle import LocalHandle
from tests.fakes.rollout_worker import FakeRolloutWorker

VERSION = PolicyVersion(1, 7)


def publish(store):
    return store.publish(VERSION, {"w": torch.arange(64.0)}, Canary(((0, 1),), ((-0.5,),)))


def flip_a_bit(published):
    with open(published.path, "r+b") as file:
        file.seek(200)
        (byte,) = file.read(1)
        file.seek(200)
        file.write(bytes([byte ^ 1]))


async def test_damaged_weights_are_published_again_and_then_served(tmp_path):
    store, told = WeightStore(tmp_path), []
    published = publish(store)
    flip_a_bit(published)

    async def repair(damage):
        told.append(str(damage))
        assert publish(store) == published

    worker = FakeRolloutWorker(store=store)
    await WeightSync(repair, told.append)(LocalHandle(worker), published)
    assert worker.version == VERSION
    assert len(told) == 1
    assert "the file is damaged" in told[0]


async def test_weights_that_stay_damaged_are_not_served(tmp_path):
    store = WeightStore(tmp_path)
    published = publish(store)
    flip_a_bit(published)

    async def leave_as_it_is(_damage):
        pass

    worker = FakeRolloutWorker(store=store)
    with pytest.raises(WeightMismatchError, match="the file is damaged"):
        await WeightSync(leave_as_it_is, print)(LocalHandle(worker), published)
    assert worker.version is None


async def test_concurrent_requests_for_a_repair_publish_the_weights_once():
    task_queue = LearnerTaskQueue(attempt=-1, timeout_s=5.0)
    await task_queue.start(0, 1)
    await task_queue.wait_for_worker_group()
    asking = [asyncio.ensure_future(task_queue.republish()) for _ in range(3)]
    task = await task_queue.next_task(0, 0, 1, 0)
    assert isinstance(task, Publish)
    assert not any(one.done() for one in asking)
    await task_queue.finished(0, 0, {})
    await asyncio.gather(*asking)
    again = asyncio.ensure_future(task_queue.republish())
    assert isinstance(await task_queue.next_task(0, 0, 1, 1), Publish)
    await task_queue.finished(0, 1, {})
    await again
