import asyncio

import pytest

from cluster.fleet import failure_policy
from cluster.fleet.fleet import Fleet, FleetFailedError
from tests.fakes.doubler import Doubler, make_fleet, turns
from tests.fakes.handle import Workshop


async def test_shrinking_lets_a_worker_finish_what_it_has_and_leave():
    workshop = Workshop(Doubler)
    fleet = make_fleet(workshop, 2)
    await turns()
    for handle in workshop.handles.values():
        handle.worker.gate.clear()
    requests = [asyncio.ensure_future(fleet.request("double", n)) for n in (1, 2)]
    await turns()
    fleet.scale(1)
    await turns()
    leaving = workshop.handles["doubler-1"]
    assert not leaving.has_left
    for handle in workshop.handles.values():
        handle.worker.gate.set()
    assert await asyncio.gather(*requests) == [2, 4]
    await turns()
    assert leaving.has_left
    assert [m.name for m in fleet.status()] == ["doubler-0"]
    await fleet.close()


async def test_growing_takes_up_waiting_requests():
    workshop = Workshop(Doubler)
    fleet = make_fleet(workshop, 0)
    request = asyncio.ensure_future(fleet.request("double", 5))
    await turns()
    assert not request.done()
    fleet.scale(1)
    assert await request == 10
    await fleet.close()


async def test_scaled_to_0_requests_wait_without_failing_and_the_new_worker_takes_them():
    workshop = Workshop(Doubler)
    fleet = make_fleet(workshop, 2, timeout_s=0.05)
    fleet.announce("v1")
    await turns()
    fleet.scale(0)
    requests = [asyncio.ensure_future(fleet.request("double", n)) for n in range(3)]
    fleet.announce("v2")
    await asyncio.sleep(0.1)  # longer than a worker may take for anything
    assert not any(request.done() for request in requests)
    assert fleet.status() == []
    assert all(handle.has_left for handle in workshop.handles.values())
    fleet.scale(1)
    assert await asyncio.gather(*requests) == [0, 2, 4]
    assert [(m.name, m.version, m.num_served) for m in fleet.status()] == [("doubler-2", "v2", 3)]
    await fleet.close()


async def test_a_worker_that_still_finishes_is_not_counted_and_given_nothing_more():
    workshop = Workshop(Doubler)
    fleet = make_fleet(workshop, 1)
    await turns()
    leaving = workshop.handles["doubler-0"].worker
    leaving.gate.clear()
    first = asyncio.ensure_future(fleet.request("double", 1))
    await turns()
    fleet.scale(0)
    fleet.scale(1)
    assert [m.state for m in fleet.status()] == ["draining", "waiting"]
    assert not fleet.is_settled
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
    assert fleet.is_settled
    await fleet.close()


async def test_shrinking_lets_the_newest_go_and_the_leading_worker_stay():
    workshop = Workshop(Doubler)
    fleet = make_fleet(workshop, 4)
    await turns()
    fleet.scale(1)
    await turns()
    assert [m.name for m in fleet.status()] == ["doubler-0"]
    await fleet.close()


async def test_a_worker_lost_while_its_fleet_shrinks_below_it_is_not_replaced():
    pauses, go_on = [], asyncio.Event()

    async def pause(seconds):
        pauses.append(seconds)
        await go_on.wait()

    workshop = Workshop(Doubler)
    fleet = Fleet("doubler", workshop, timeout_s=5.0, pause=pause, on_event=pauses.append)
    fleet.scale(2)
    await turns()
    workshop.handles["doubler-1"].kill()
    requests = [asyncio.ensure_future(fleet.request("double", n)) for n in (1, 2)]
    await turns()
    fleet.scale(1)  # while doubler-1 waits to be replaced
    go_on.set()
    await turns()
    assert pauses[1:] == [0.5]
    assert await asyncio.gather(*requests) == [2, 4]
    assert list(workshop.handles) == ["doubler-0", "doubler-1"]
    await fleet.close()


async def test_growing_while_a_replacement_waits_does_not_make_one_too_many():
    go_on = asyncio.Event()

    async def pause(_seconds):
        await go_on.wait()

    workshop = Workshop(Doubler)
    fleet = Fleet("doubler", workshop, timeout_s=5.0, pause=pause, on_event=lambda _: None)
    fleet.scale(1)
    await turns()
    workshop.handles["doubler-0"].kill()
    request = asyncio.ensure_future(fleet.request("double", 1))
    await turns()
    fleet.scale(3)
    go_on.set()
    assert await request == 2
    await turns()
    assert [m.name for m in fleet.status()] == ["doubler-1", "doubler-2", "doubler-3"]
    await fleet.close()


async def test_a_draining_worker_that_is_lost_hands_its_request_on():
    events = []
    workshop = Workshop(Doubler)
    fleet = make_fleet(workshop, 2, events=events)
    await turns()
    for handle in workshop.handles.values():
        handle.worker.gate.clear()
    requests = [asyncio.ensure_future(fleet.request("double", n)) for n in (1, 2)]
    await turns()
    fleet.scale(1)
    workshop.handles["doubler-1"].kill()
    for handle in workshop.handles.values():
        handle.worker.gate.set()
    assert await asyncio.gather(*requests) == [2, 4]
    assert workshop.handles["doubler-0"].worker.started == [1, 2]
    assert list(workshop.handles) == ["doubler-0", "doubler-1"]
    assert events == ["doubler-1 lost on its way out (the process died during the call)"]
    await fleet.close()


async def test_losses_before_a_pause_do_not_count_after_it():
    def unable(number):
        worker = Doubler(number)
        if number < failure_policy.MAX_CONSECUTIVE_LOSSES:
            worker.load = lambda version: (_ for _ in ()).throw(OSError("no such model"))
        return worker

    pauses, go_on = [], asyncio.Event()

    async def pause(seconds):
        pauses.append(seconds)
        if len(pauses) == failure_policy.MAX_CONSECUTIVE_LOSSES - 1:
            await go_on.wait()

    async def sync(handle, version):
        await handle.call("load", version)

    workshop = Workshop(unable)
    fleet = Fleet(
        "doubler", workshop, timeout_s=5.0, sync=sync, pause=pause, on_event=lambda _: None
    )
    fleet.announce("v1")
    fleet.scale(1)
    request = asyncio.ensure_future(fleet.request("double", 1))
    await turns()
    fleet.scale(0)
    go_on.set()
    await turns()
    assert fleet.status() == []
    fleet.scale(1)
    assert await request == 2
    assert pauses == [0.5, 1.0, 2.0, 4.0, 0.5]
    await fleet.close()


async def test_closing_ends_every_request_even_one_that_a_worker_never_finishes():
    workshop = Workshop(Doubler)
    fleet = make_fleet(workshop, 1)
    await turns()
    workshop.handles["doubler-0"].worker.gate.clear()
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
    assert list(workshop.handles) == ["doubler-0"]


async def test_a_worker_waits_for_room_without_a_deadline_and_tells_of_it():
    events = []
    workshop = Workshop(Doubler)
    fleet = make_fleet(workshop, 0, timeout_s=0.05, events=events)
    workshop.has_room = False
    fleet.scale(1)
    request = asyncio.ensure_future(fleet.request("double", 4))
    await asyncio.sleep(0.15)  # longer than a worker may take for anything
    assert [m.state for m in fleet.status()] == ["waiting"]
    assert not fleet.is_settled
    assert events == ["doubler-0 still waits for a node that has room for it"]
    workshop.handles["doubler-0"].has_room.set()
    assert await request == 8
    assert list(workshop.handles) == ["doubler-0"]
    await fleet.close()


async def test_a_worker_that_waits_for_room_is_gone_at_once_when_it_is_not_wanted():
    events = []
    workshop = Workshop(Doubler)
    fleet = make_fleet(workshop, 1, events=events)
    await turns()
    workshop.has_room = False
    fleet.scale(3)
    await turns()
    fleet.scale(2)
    assert [m.name for m in fleet.status()] == ["doubler-0", "doubler-1"]
    assert not workshop.handles["doubler-2"].is_alive
    await fleet.close(patience_s=0.01)
    assert not workshop.handles["doubler-1"].is_alive
    assert events == []
