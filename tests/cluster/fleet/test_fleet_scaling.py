import asyncio

import pytest

from cluster.fleet import failure_policy
from cluster.fleet.fleet import Fleet, FleetFailedError, Reports
from tests.fakes.doubler import Doubler, make_fleet, turns
from tests.fakes.handle import WorkerFactory


async def test_shrinking_lets_a_worker_finish_its_request_and_exit():
    factory = WorkerFactory(Doubler)
    fleet = make_fleet(factory, 2)
    await turns()
    for handle in factory.handles.values():
        handle.worker.gate.clear()
    requests = [asyncio.ensure_future(fleet.request("double", n)) for n in (1, 2)]
    await turns()
    fleet.scale(1)
    await turns()
    leaving = factory.handles["doubler-1"]
    assert not leaving.has_exited
    for handle in factory.handles.values():
        handle.worker.gate.set()
    assert await asyncio.gather(*requests) == [2, 4]
    await turns()
    assert leaving.has_exited
    assert [m.name for m in fleet.status()] == ["doubler-0"]
    await fleet.close()


async def test_growing_serves_waiting_requests():
    factory = WorkerFactory(Doubler)
    fleet = make_fleet(factory, 0)
    request = asyncio.ensure_future(fleet.request("double", 5))
    await turns()
    assert not request.done()
    fleet.scale(1)
    assert await request == 10
    await fleet.close()


async def test_scaled_to_0_requests_wait_without_failing_and_the_new_worker_takes_them():
    factory = WorkerFactory(Doubler)
    fleet = make_fleet(factory, 2, timeout_s=0.05)
    fleet.announce("v1")
    await turns()
    fleet.scale(0)
    requests = [asyncio.ensure_future(fleet.request("double", n)) for n in range(3)]
    fleet.announce("v2")
    await asyncio.sleep(0.1)  # longer than a worker may take for anything
    assert not any(request.done() for request in requests)
    assert fleet.status() == []
    assert all(handle.has_exited for handle in factory.handles.values())
    fleet.scale(1)
    assert await asyncio.gather(*requests) == [0, 2, 4]
    assert [(m.name, m.version, m.num_served) for m in fleet.status()] == [("doubler-2", "v2", 3)]
    await fleet.close()


async def test_a_draining_worker_does_not_count_and_gets_no_more_requests():
    factory = WorkerFactory(Doubler)
    fleet = make_fleet(factory, 1)
    await turns()
    leaving = factory.handles["doubler-0"].worker
    leaving.gate.clear()
    first = asyncio.ensure_future(fleet.request("double", 1))
    await turns()
    fleet.scale(0)
    fleet.scale(1)
    assert [m.state for m in fleet.status()] == ["draining", "waiting"]
    assert not fleet.has_target_size
    # What only the leading worker may do is the new one's already.
    who = asyncio.ensure_future(fleet.request("who", lead_only=True))
    await turns()
    assert who.done()
    assert who.result() == 1
    leaving.gate.set()
    assert await first == 2
    await turns()
    assert leaving.started == [1]
    assert [m.name for m in fleet.status()] == ["doubler-1"]
    assert fleet.has_target_size
    await fleet.close()


async def test_shrinking_drains_the_newest_workers_and_keeps_the_leading_one():
    factory = WorkerFactory(Doubler)
    fleet = make_fleet(factory, 4)
    await turns()
    fleet.scale(1)
    await turns()
    assert [m.name for m in fleet.status()] == ["doubler-0"]
    await fleet.close()


async def test_a_worker_lost_while_its_fleet_shrinks_below_it_is_not_replaced():
    pauses, resume = [], asyncio.Event()

    async def pause(seconds):
        pauses.append(seconds)
        await resume.wait()

    factory = WorkerFactory(Doubler)
    fleet = Fleet("doubler", factory, timeout_s=5.0, pause=pause, reports=Reports(pauses.append))
    fleet.scale(2)
    await turns()
    factory.handles["doubler-1"].kill()
    requests = [asyncio.ensure_future(fleet.request("double", n)) for n in (1, 2)]
    await turns()
    fleet.scale(1)  # while doubler-1 waits to be replaced
    resume.set()
    await turns()
    assert pauses[1:] == [0.5]
    assert await asyncio.gather(*requests) == [2, 4]
    assert list(factory.handles) == ["doubler-0", "doubler-1"]
    await fleet.close()


async def test_growing_while_a_replacement_waits_does_not_make_one_too_many():
    resume = asyncio.Event()

    async def pause(_seconds):
        await resume.wait()

    factory = WorkerFactory(Doubler)
    fleet = Fleet("doubler", factory, timeout_s=5.0, pause=pause, reports=Reports(lambda _: None))
    fleet.scale(1)
    await turns()
    factory.handles["doubler-0"].kill()
    request = asyncio.ensure_future(fleet.request("double", 1))
    await turns()
    fleet.scale(3)
    resume.set()
    assert await request == 2
    await turns()
    assert [m.name for m in fleet.status()] == ["doubler-1", "doubler-2", "doubler-3"]
    await fleet.close()


async def test_the_request_of_a_draining_worker_that_is_lost_goes_to_another():
    events = []
    factory = WorkerFactory(Doubler)
    fleet = make_fleet(factory, 2, events=events)
    await turns()
    for handle in factory.handles.values():
        handle.worker.gate.clear()
    requests = [asyncio.ensure_future(fleet.request("double", n)) for n in (1, 2)]
    await turns()
    fleet.scale(1)
    factory.handles["doubler-1"].kill()
    for handle in factory.handles.values():
        handle.worker.gate.set()
    assert await asyncio.gather(*requests) == [2, 4]
    assert factory.handles["doubler-0"].worker.started == [1, 2]
    assert list(factory.handles) == ["doubler-0", "doubler-1"]
    assert events == ["doubler-1 was lost while draining (the process died during the call)"]
    await fleet.close()


async def test_losses_before_a_pause_do_not_count_after_it():
    def unable(number):
        worker = Doubler(number)
        if number < failure_policy.MAX_CONSECUTIVE_LOSSES:
            worker.load = lambda version: (_ for _ in ()).throw(OSError(f"{number} fails"))
        return worker

    pauses, resume = [], asyncio.Event()

    async def pause(seconds):
        pauses.append(seconds)
        if len(pauses) == failure_policy.MAX_CONSECUTIVE_LOSSES - 1:
            await resume.wait()

    async def sync(handle, version):
        await handle.call("load", version)

    factory = WorkerFactory(unable)
    fleet = Fleet(
        "doubler", factory, timeout_s=5.0, sync=sync, pause=pause, reports=Reports(lambda _: None)
    )
    fleet.announce("v1")
    fleet.scale(1)
    request = asyncio.ensure_future(fleet.request("double", 1))
    await turns()
    fleet.scale(0)
    resume.set()
    await turns()
    assert fleet.status() == []
    fleet.scale(1)
    assert await request == 2
    assert pauses == [0.5, 1.0, 2.0, 4.0, 0.5]
    await fleet.close()


async def test_closing_ends_every_request_even_one_that_a_worker_never_finishes():
    factory = WorkerFactory(Doubler)
    fleet = make_fleet(factory, 1)
    await turns()
    factory.handles["doubler-0"].worker.gate.clear()
    requests = [asyncio.ensure_future(fleet.request("double", n)) for n in range(2)]
    await turns()
    closing = asyncio.ensure_future(fleet.close(patience_s=0.05))
    await turns()
    with pytest.raises(FleetFailedError, match="was closed"):
        fleet.scale(3)
    with pytest.raises(FleetFailedError, match="was closed"):
        await requests[1]
    await closing
    with pytest.raises(FleetFailedError, match="was closed"):
        await requests[0]
    assert list(factory.handles) == ["doubler-0"]


async def test_a_worker_waits_for_resources_without_a_deadline_and_reports_it_once():
    events = []
    factory = WorkerFactory(Doubler)
    fleet = make_fleet(factory, 0, timeout_s=0.05, events=events, notice_s=0.02)
    factory.has_resources = False
    fleet.scale(1)
    request = asyncio.ensure_future(fleet.request("double", 4))
    await asyncio.sleep(0.15)  # longer than a worker may take for anything
    assert [m.state for m in fleet.status()] == ["waiting"]
    assert not fleet.has_target_size
    assert events == ["doubler-0 is waiting for 1 GPU"]
    factory.handles["doubler-0"].is_placed.set()
    assert await request == 8
    assert events[1:] == ["doubler-0 has its resources after 0 s"]
    assert list(factory.handles) == ["doubler-0"]
    await fleet.close()


async def test_a_worker_that_waits_for_resources_is_removed_at_once_when_the_fleet_shrinks():
    events = []
    factory = WorkerFactory(Doubler)
    fleet = make_fleet(factory, 1, events=events)
    await turns()
    factory.has_resources = False
    fleet.scale(3)
    await turns()
    fleet.scale(2)
    assert [m.name for m in fleet.status()] == ["doubler-0", "doubler-1"]
    assert not factory.handles["doubler-2"].is_alive
    await fleet.close(patience_s=0.01)
    assert not factory.handles["doubler-1"].is_alive
    assert events == []
