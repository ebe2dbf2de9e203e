import asyncio
import random
import time

import pytest

from actors.errors import RetryableError
from cluster.fleet import failure_policy
from cluster.fleet.fleet import FleetFailedError
from tests.fakes.doubler import Doubler, make_fleet, turns
from tests.fakes.handle import Workshop


async def test_every_request_is_answered_once():
    workshop = Workshop(Doubler)
    fleet = make_fleet(workshop, 3)
    results = await asyncio.gather(*(fleet.request("double", n) for n in range(20)))
    assert results == [2 * n for n in range(20)]
    done = sorted(n for h in workshop.handles.values() for n in h.worker.started)
    assert done == list(range(20))
    await fleet.close()


async def test_a_request_of_a_killed_worker_is_done_by_another_and_the_worker_is_replaced():
    events = []
    workshop = Workshop(Doubler)
    fleet = make_fleet(workshop, 1, events=events)
    await turns()
    first = workshop.handles["doubler-0"]
    first.worker.gate.clear()
    request = asyncio.ensure_future(fleet.request("double", 21))
    await turns()
    assert first.worker.started == [21]
    first.kill()
    first.worker.gate.set()
    assert await request == 42
    assert [m.name for m in fleet.status()] == ["doubler-1"]
    assert workshop.handles["doubler-1"].worker.started == [21]
    assert len(events) == 1
    assert "doubler-0 lost (the process died during the call)" in events[0]
    await fleet.close()


async def test_a_worker_that_hangs_is_killed_and_its_request_goes_elsewhere():
    workshop = Workshop(Doubler)
    fleet = make_fleet(workshop, 1, timeout_s=0.05)
    await turns()
    hanging = workshop.handles["doubler-0"]
    hanging.worker.gate.clear()
    assert await fleet.request("double", 4) == 8
    assert not hanging.is_alive
    await fleet.close()


async def test_no_worker_serves_before_it_holds_what_was_announced():
    workshop = Workshop(Doubler)
    fleet = make_fleet(workshop, 2)
    fleet.announce("v1")
    await turns()
    assert await fleet.request("version_now") == "v1"
    fleet.announce("v2")
    versions = await asyncio.gather(*(fleet.request("version_now") for _ in range(8)))
    assert versions == ["v2"] * 8
    workshop.handles["doubler-0"].kill()
    workshop.handles["doubler-1"].kill()
    assert await fleet.request("version_now") == "v2"
    assert workshop.handles["doubler-2"].worker.version == "v2"
    await fleet.close()


async def test_what_the_worker_itself_raises_reaches_the_caller_and_costs_no_worker():
    workshop = Workshop(Doubler)
    fleet = make_fleet(workshop, 1)
    with pytest.raises(ValueError, match="7 is refused"):
        await fleet.request("refuse", 7)
    assert await fleet.request("double", 7) == 14
    assert list(workshop.handles) == ["doubler-0"]
    await fleet.close()


async def test_only_the_leading_worker_does_what_only_it_may_do():
    workshop = Workshop(Doubler)
    fleet = make_fleet(workshop, 3)
    await turns()
    who = await asyncio.gather(*(fleet.request("who", lead_only=True) for _ in range(6)))
    assert who == [0] * 6
    workshop.handles["doubler-0"].kill()
    assert await fleet.request("who", lead_only=True) == 1
    await fleet.close()


async def test_a_crash_loop_ends_with_the_last_error():
    def unable(number):
        raise_on_start = Doubler(number)
        raise_on_start.load = lambda version: (_ for _ in ()).throw(OSError("no such model"))
        return raise_on_start

    workshop, pauses = Workshop(unable), []
    fleet = make_fleet(workshop, 1, pauses=pauses)
    fleet.announce("v1")
    expected = "5 doubler workers in a row .* the last error: no such model"
    with pytest.raises(FleetFailedError, match=expected):
        await fleet.request("double", 1)
    with pytest.raises(FleetFailedError, match=expected):
        await fleet.request("double", 1)
    assert len(workshop.handles) == failure_policy.MAX_CONSECUTIVE_LOSSES
    assert pauses == [0.5, 1.0, 2.0, 4.0]
    await fleet.close()


async def test_a_request_that_takes_down_every_worker_is_given_up():
    class Fragile(Doubler):
        async def break_down(self):
            next(h for h in workshop.handles.values() if h.worker is self).kill()

        async def double(self, value):
            return 2 * value

    workshop = Workshop(Fragile)
    fleet = make_fleet(workshop, 2)
    assert await fleet.request("double", 1) == 2
    with pytest.raises(FleetFailedError, match="break_down failed on 4 doubler workers"):
        await fleet.request("break_down")
    await fleet.close()


async def test_a_request_that_may_succeed_later_is_tried_again_without_replacing_the_worker():
    class Moody(Doubler):
        num_refusals = 3

        async def double(self, value):
            if self.num_refusals:
                self.num_refusals -= 1
                raise RetryableError("not now")
            return 2 * value

    workshop = Workshop(Moody)
    fleet = make_fleet(workshop, 1)
    assert await fleet.request("double", 3) == 6
    workshop.handles["doubler-0"].worker.num_refusals = 4
    with pytest.raises(FleetFailedError, match=r"double failed on 4 doubler workers.*not now"):
        await fleet.request("double", 3)
    assert list(workshop.handles) == ["doubler-0"]
    await fleet.close()


async def test_many_workers_lost_at_once_are_no_crash_loop_if_they_had_worked():
    num_workers = failure_policy.MAX_CONSECUTIVE_LOSSES + 2
    workshop, pauses = Workshop(Doubler), []
    fleet = make_fleet(workshop, num_workers, pauses=pauses)
    await turns()
    for _ in range(2):  # a node is lost with all of them
        old = list(workshop.handles.values())[-num_workers:]
        for handle in old:
            handle.worker.gate.clear()
        requests = [asyncio.ensure_future(fleet.request("double", n)) for n in range(num_workers)]
        await turns()
        for handle in old:
            handle.worker.gate.set()
        assert await asyncio.gather(*requests) == [2 * n for n in range(num_workers)]
        for handle in old:
            handle.kill()
        requests = [asyncio.ensure_future(fleet.request("double", n)) for n in range(num_workers)]
        assert await asyncio.gather(*requests) == [2 * n for n in range(num_workers)]
        await turns()
    assert pauses == [0.5] * 2 * num_workers
    await fleet.close()


async def test_the_time_that_workers_spend_on_requests_adds_up():
    workshop = Workshop(Doubler)
    fleet = make_fleet(workshop, 2)
    await turns()
    assert fleet.busy_s == 0.0
    for handle in workshop.handles.values():
        handle.worker.gate.clear()
    began = time.monotonic()
    requests = [asyncio.ensure_future(fleet.request("double", n)) for n in range(2)]
    await turns()
    earlier, before = fleet.busy_s, time.monotonic()
    await asyncio.sleep(0.02)
    assert fleet.busy_s - earlier >= 2 * 0.02  # of requests that still go on
    for handle in workshop.handles.values():
        handle.worker.gate.set()
    await asyncio.gather(*requests)
    done = fleet.busy_s
    assert 2 * (time.monotonic() - began) >= done >= 2 * 0.02
    assert before > began
    await turns()
    assert fleet.busy_s == done
    await fleet.close()


async def test_closing_ends_waiting_requests_with_an_error():
    fleet = make_fleet(Workshop(Doubler), 0)
    request = asyncio.ensure_future(fleet.request("double", 5))
    await turns()
    await fleet.close()
    with pytest.raises(FleetFailedError, match="was closed"):
        await request


@pytest.mark.parametrize("keeps", [True, False])
async def test_what_is_announced_reaches_a_worker_in_the_middle_of_a_request_only_if_it_shall(
    keeps,
):
    workshop = Workshop(Doubler)
    fleet = make_fleet(workshop, 1, keeps=keeps)
    fleet.announce("v1")
    await turns()
    worker = workshop.handles["doubler-0"].worker
    worker.gate.clear()
    request = asyncio.ensure_future(fleet.request("double", 4))
    await turns()
    fleet.announce("v2")
    await turns()
    assert worker.version == ("v2" if keeps else "v1")
    assert not request.done()
    worker.gate.set()
    assert await request == 8
    assert worker.started == [4]
    assert await fleet.request("version_now") == "v2"
    await fleet.close()


async def test_a_worker_that_cannot_take_what_is_announced_loses_its_request_to_another():
    def picky(number):
        worker = Doubler(number)

        async def load(version):
            if number == 0 and version == "v2":
                raise OSError("cannot be read")
            worker.version = version

        worker.load = load
        return worker

    events = []
    workshop = Workshop(picky)
    fleet = make_fleet(workshop, 1, keeps=True, events=events)
    fleet.announce("v1")
    await turns()
    first = workshop.handles["doubler-0"].worker
    first.gate.clear()
    request = asyncio.ensure_future(fleet.request("double", 4))
    await turns()
    fleet.announce("v2")
    await turns()
    first.gate.set()
    assert await request == 8
    assert workshop.handles["doubler-1"].worker.started == [4]
    assert events[0] == "doubler-0 could not be brought up to date: OSError('cannot be read')"
    await fleet.close()


async def test_one_request_rouses_one_resting_worker_and_the_one_that_rested_longest():
    workshop = Workshop(Doubler)
    fleet = make_fleet(workshop, 3)
    await turns()
    for expected in (0, 1, 2, 0, 1, 2):
        assert await fleet.request("who") == expected
        await turns()
    await fleet.close()


async def test_every_request_is_answered_while_workers_come_and_go_and_news_arrive():
    rng = random.Random(0)
    workshop = Workshop(Doubler)
    fleet = make_fleet(workshop, 2, keeps=True)
    fleet.announce(0)
    requests = []
    for number in range(300):
        lead_only = rng.random() < 0.2
        requests.append(asyncio.ensure_future(fleet.request("double", number, lead_only=lead_only)))
        match rng.randrange(6):
            case 0:
                fleet.scale(rng.randint(1, 5))
            case 1:
                fleet.announce(number)
            case 2:
                rng.choice(list(workshop.handles.values())).kill()
        await turns(rng.randrange(4))
    assert await asyncio.gather(*requests) == [2 * number for number in range(300)]
    await fleet.close()
