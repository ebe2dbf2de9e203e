import asyncio
import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.messages import Evaluate, OnPolicyStep, Publish, SaveCheckpoint, SftStep, Stop
from alignment.mdp.trajectories import EMPTY, concatenate, pack
from cluster.learner.task_queue import (
    LearnerFailedError,
    LearnerTaskQueue,
    SupersededError,
    WorkerGroupRestartedError,
    share,
)


def make_task(prompt_ids=()):
    batch = concatenate([pack([5], [6, 2], prompt_id=number) for number in prompt_ids])
    numbers = np.arange(len(batch), dtype=np.float32)
    return OnPolicyStep(0, 0.1, batch, numbers, 10 * numbers, len(batch), 2 * len(batch))


@given(sizes=st.lists(st.integers(1, 4), max_size=7), world_size=st.integers(1, 4))
def test_the_shares_of_the_ranks_are_whole_groups_and_add_up_to_the_task(sizes, world_size):
    ids = [number for number, size in enumerate(sizes) for _ in range(size)]
    task = make_task(ids)
    shares = [share(task, rank, world_size) for rank in range(world_size)]
    seen = sorted(number for part in shares for number in part.discriminator_logits.tolist())
    assert seen == list(range(len(ids)))
    for part in shares:
        assert part.num_sequences == len(ids)
        assert part.num_action_tokens == 2 * len(ids)
        held = part.trajectories.prompt_ids.tolist()
        assert all(held.count(number) == ids.count(number) for number in held)
        np.testing.assert_array_equal(part.rewards, 10 * part.discriminator_logits)
        np.testing.assert_array_equal(held, [ids[int(n)] for n in part.discriminator_logits])


@given(lengths=st.lists(st.integers(1, 4), min_size=1, max_size=6), world_size=st.integers(1, 3))
def test_values_of_tokens_are_in_the_share_of_their_trajectory(lengths, world_size):
    batch = concatenate([pack([5], [6] * n, prompt_id=row) for row, n in enumerate(lengths)])
    owner = np.repeat(np.arange(len(lengths), dtype=np.float32), lengths)
    states = np.stack([owner, -owner], axis=1)
    task = OnPolicyStep(0, 0.1, batch, owner, np.zeros(len(batch)), len(batch), 1, states)
    for rank in range(world_size):
        part = share(task, rank, world_size)
        ids = part.trajectories.prompt_ids
        expected = np.repeat(ids, part.trajectories.response_lengths)
        np.testing.assert_array_equal(part.discriminator_logits, expected)
        assert part.teacher_states is not None
        np.testing.assert_array_equal(part.teacher_states, np.stack([expected, -expected], axis=1))


async def test_all_ranks_get_the_same_start_once_the_worker_group_is_complete():
    task_queue = LearnerTaskQueue(attempt=4, timeout_s=5.0)
    task_queue.set_checkpoint("step-7")
    first = asyncio.ensure_future(task_queue.start(0, 2))
    await asyncio.sleep(0)
    assert not first.done()
    assert await task_queue.start(1, 2) == await first == (5, "step-7")


async def test_a_smaller_worker_group_does_not_wait_for_ranks_of_an_incomplete_one():
    task_queue = LearnerTaskQueue(attempt=-1, timeout_s=5.0)
    left = asyncio.ensure_future(task_queue.start(1, 2))
    await asyncio.sleep(0)
    assert await task_queue.start(0, 1) == (1, None)
    with pytest.raises(SupersededError):
        await left


async def test_a_worker_group_that_is_not_complete_in_time_fails():
    with pytest.raises(TimeoutError):
        await LearnerTaskQueue(attempt=-1, timeout_s=0.02).start(0, 2)


async def test_a_new_worker_group_ends_the_tasks_and_the_ranks_of_the_old_one():
    task_queue = LearnerTaskQueue(attempt=-1, timeout_s=5.0)
    await task_queue.start(0, 1)
    await task_queue.wait_for_worker_group()
    submitted = asyncio.ensure_future(task_queue.submit(make_task([1])))
    await asyncio.sleep(0)
    assert await task_queue.start(0, 1) == (1, None)
    with pytest.raises(WorkerGroupRestartedError):
        await submitted
    with pytest.raises(SupersededError, match="worker group 0 was replaced by worker group 1"):
        await task_queue.next_task(0, 0, 1, 0)


async def test_a_new_worker_group_gets_no_task_before_the_driver_has_waited_for_it():
    task_queue = LearnerTaskQueue(attempt=-1, timeout_s=5.0)
    await task_queue.start(0, 1)
    await task_queue.wait_for_worker_group()
    # the old one was lost between tasks; this has the checkpoint's weights
    await task_queue.start(0, 1)
    with pytest.raises(WorkerGroupRestartedError):
        await task_queue.submit(make_task([1]))
    assert await task_queue.wait_for_worker_group() == 1
    submitted = asyncio.ensure_future(task_queue.submit(make_task([1])))
    await task_queue.next_task(1, 0, 1, 0)
    await task_queue.finished(1, 0, {"loss": 3.0})
    assert await submitted == {"loss": 3.0}


async def test_a_worker_group_that_started_while_a_checkpoint_was_written_is_replaced():
    task_queue = LearnerTaskQueue(attempt=-1, timeout_s=5.0)
    task_queue.set_checkpoint("step-5")
    await task_queue.start(0, 1)
    await task_queue.wait_for_worker_group()
    assert await task_queue.start(0, 1) == (1, "step-5")
    task_queue.set_checkpoint("step-10")  # written by the worker group before this one
    newest = asyncio.ensure_future(task_queue.wait_for_worker_group())
    with pytest.raises(SupersededError):
        await task_queue.next_task(1, 0, 1, 0)
    assert await task_queue.start(0, 1) == (2, "step-10")
    assert await newest == 2


async def test_finishing_a_task_twice_changes_nothing():
    task_queue = LearnerTaskQueue(attempt=-1, timeout_s=5.0)
    await task_queue.start(0, 1)
    await task_queue.wait_for_worker_group()
    submitted = asyncio.ensure_future(task_queue.submit(make_task([1])))
    await task_queue.next_task(0, 0, 1, 0)
    await task_queue.finished(0, 0, {"loss": 3.0})
    await task_queue.finished(0, 0, {"loss": 4.0})
    assert await submitted == {"loss": 3.0}
    assert task_queue.num_steps == 1


async def test_only_optimizer_steps_count_as_progress():
    task_queue = LearnerTaskQueue(attempt=-1, timeout_s=5.0)
    await task_queue.start(0, 1)
    await task_queue.wait_for_worker_group()
    tasks = [
        Publish(),
        SaveCheckpoint(0, "step-0"),
        Evaluate(0, EMPTY, 0),
        SftStep(0, 0.1, EMPTY, 0, 0),
        make_task([1]),
    ]
    for index, task in enumerate(tasks):
        submitted = asyncio.ensure_future(task_queue.submit(task))
        await task_queue.next_task(0, 0, 1, index)
        await task_queue.finished(0, index, {})
        await submitted
    assert task_queue.num_steps == 2


async def test_a_task_that_is_not_done_in_time_is_an_error_that_names_it():
    task_queue = LearnerTaskQueue(attempt=-1, timeout_s=0.05)
    await task_queue.start(0, 1)
    await task_queue.wait_for_worker_group()
    with pytest.raises(LearnerFailedError, match="did not finish OnPolicyStep in 0 s"):
        await task_queue.submit(make_task([1]))


async def test_waiting_for_a_worker_group_has_a_deadline():
    task_queue = LearnerTaskQueue(attempt=-1, timeout_s=0.02)
    with pytest.raises(
        LearnerFailedError, match=r"no learner started within placement\.timeout_s = 0\.02 s"
    ):
        await task_queue.wait_for_worker_group()


async def test_closing_stops_the_ranks():
    task_queue = LearnerTaskQueue(attempt=-1, timeout_s=5.0)
    await task_queue.start(0, 1)
    waiting = asyncio.ensure_future(task_queue.next_task(0, 0, 1, 0))
    await asyncio.sleep(0)
    await task_queue.close()
    assert isinstance(await waiting, Stop)


async def test_the_memory_of_a_task_is_freed_once_the_next_one_is_done():
    task_queue = LearnerTaskQueue(attempt=-1, timeout_s=5.0)
    await task_queue.start(0, 1)
    await task_queue.wait_for_worker_group()
    held = []
    for index in range(3):
        task = replace(make_task([1]), teacher_states=np.zeros((2, 4), np.float32))
        held += [weakref.ref(task.teacher_states), weakref.ref(task.rewards)]
        submitted = asyncio.ensure_future(task_queue.submit(task))
        await task_queue.next_task(0, 0, 1, index)
        await task_queue.finished(0, index, {})
        await submitted
        del task, submitted
    gc.collect()
    assert [reference() is None for reference in held] == [True] * 4 + [False] * 2
