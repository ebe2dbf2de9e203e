import asyncio
import random
import time

import pytest

from actors.errors import RetryableError
from cluster.fleet import failure_policy
from cluster.fleet.fleet import FleetFailedError
from cluster.fleet.members import WorkerExitedError, WorkerLostError
from tests.fakes.doubler import Doubler, make_fleet, turns
from tests.fakes.handle import WorkerFactory


async def test_every_request_is_served_once():
    factory = WorkerFactory(Doubler)
    fleet = make_fleet(factory, 3)
    results = await asyncio.gather(*(fleet.request("double", n) for n in range(20)))
    assert results == [2 * n for n in range(20)]
    done = sorted(n for h in factory.handles.values() for n in h.worker.started)
    assert done == list(range(20))
    await fleet.close()


async def test_a_request_of_a_killed_worker_is_served_by_another_and_the_worker_is_replaced():
    events = []
    factory = WorkerFactory(Doubler)
    fleet = make_fleet(factory, 1, events=events)
    await turns()
    first = factory.handles["doubler-0"]
    first.worker.gate.clear()
    request = asyncio.ensure_future(fleet.request("double", 21))
    await turns()
    assert first.worker.started == [21]
    first.kill()
    first.worker.gate.set()
    assert await request == 42
    assert [m.name for m in fleet.status()] == ["doubler-1"]
    assert factory.handles["doubler-1"].worker.started == [21]
    assert len(events) == 1
    assert "doubler-0 was lost (the process died during the call)" in events[0]
    await fleet.close()


async def test_a_worker_that_hangs_is_killed_and_its_request_goes_elsewhere():
    factory = WorkerFactory(Doubler)
    fleet = make_fleet(factory, 1, timeout_s=0.05)
    await turns()
    hanging = factory.handles["doubler-0"]
    hanging.worker.gate.clear()
    assert await fleet.request("double", 4) == 8
    assert not hanging.is_alive
    await fleet.close()


async def test_no_worker_serves_before_it_holds_the_announced_version():
    factory = WorkerFactory(Doubler)
    fleet = make_fleet(factory, 2)
    fleet.announce("v1")
    await turns()
    assert await fleet.request("version_now") == "v1"
    fleet.announce("v2")
    versions = await asyncio.gather(*(fleet.request("version_now") for _ in range(8)))
    assert versions == ["v2"] * 8
    factory.handles["doubler-0"].kill()
    factory.handles["doubler-1"].kill()
    assert await fleet.request("version_now") == "v2"
    assert factory.handles["doubler-2"].worker.version == "v2"
    await fleet.close()


async def test_an_error_raised_by_the_method_reaches_the_caller_and_the_worker_stays():
    factory = WorkerFactory(Doubler)
    fleet = make_fleet(factory, 1)
    with pytest.raises(ValueError, match="7 is refused"):
        await fleet.request("refuse", 7)
    assert await fleet.request("double", 7) == 14
    assert list(factory.handles) == ["doubler-0"]
    await fleet.close()


async def test_only_the_leading_worker_takes_a_lead_only_request():
    factory = WorkerFactory(Doubler)
    fleet = make_fleet(factory, 3)
    await turns()
    who = await asyncio.gather(*(fleet.request("who", lead_only=True) for _ in range(6)))
    assert who == [0] * 6
    factory.handles["doubler-0"].kill()
    assert await fleet.request("who", lead_only=True) == 1
    await fleet.close()


def unable(*errors):
    """Return a factory of workers that fail to load with these errors, one after the other."""
    left = list(errors)

    def build(number):
        worker = Doubler(number)

        def load(version):
            if left:
                raise left.pop(0)
            worker.version = version
            return asyncio.sleep(0)

        worker.load = load
        return worker

    return WorkerFactory(build)


async def test_a_crash_loop_of_different_errors_ends_with_the_last_error():
    factory, pauses = unable(*(OSError(f"disk {n}") for n in range(9))), []
    fleet = make_fleet(factory, 1, pauses=pauses)
    fleet.announce("v1")
    expected = "5 doubler workers in a row .* the last error: OSError: disk 4"
    with pytest.raises(FleetFailedError, match=expected):
        await fleet.request("double", 1)
    with pytest.raises(FleetFailedError, match=expected):
        await fleet.request("double", 1)
    assert len(factory.handles) == failure_policy.MAX_CONSECUTIVE_LOSSES
    assert pauses == [0.5, 1.0, 2.0, 4.0]
    await fleet.close()


async def test_an_error_that_a_replacement_repeats_ends_the_fleet_at_the_second_time():
    events = []
    factory = unable(*(OSError(f"no model at 0x{n}ff (pid {n})") for n in range(9)))
    fleet = make_fleet(factory, 1, events=events)
    fleet.announce("v1")
    expected = "a doubler worker and its replacement failed with the same error: OSError: no model"
    with pytest.raises(FleetFailedError, match=expected):
        await fleet.request("double", 1)
    assert list(factory.handles) == ["doubler-0", "doubler-1"]
    # The error is told at the first loss.
    assert events == [
        "doubler-0 was lost (OSError: no model at 0x0ff (pid 0)); a replacement starts in 0.5 s"
    ]
    assert "no model" in str(await fleet.failure())
    await fleet.close()


async def test_one_error_of_all_workers_at_once_counts_once_and_of_a_replacement_twice():
    factory = unable(*[OSError("the file system is away")] * 4)
    fleet = make_fleet(factory, 4)
    fleet.announce("v1")
    assert await fleet.request("double", 1) == 2
    assert len(factory.handles) == 8
    await fleet.close()


async def test_an_error_counts_anew_once_a_request_was_served():
    failing = []

    def build(number):
        worker = Doubler(number)

        def load(version):
            if failing:
                raise failing.pop()
            worker.version = version
            return asyncio.sleep(0)

        worker.load = load
        return worker

    factory = WorkerFactory(build)
    fleet = make_fleet(factory, 1)
    for version in range(4):
        failing.append(OSError("a moment"))
        fleet.announce(version)
        assert await fleet.request("double", version) == 2 * version
    assert len(factory.handles) == 5
    await fleet.close()


@pytest.mark.parametrize("error", [WorkerLostError("killed"), TimeoutError()])
async def test_kills_and_timeouts_are_no_errors_that_repeat(error):
    factory = unable(*[error] * 9)
    fleet = make_fleet(factory, 1)
    fleet.announce("v1")
    with pytest.raises(FleetFailedError, match="5 doubler workers in a row"):
        await fleet.request("double", 1)
    assert len(factory.handles) == 5
    await fleet.close()


async def test_a_program_that_ends_its_process_twice_with_one_exit_code_is_an_error_that_repeats():
    class Exiting(Doubler):
        async def double(self, value):
            raise WorkerExitedError("Worker exits with an exit code 3")

    factory = WorkerFactory(Exiting)
    fleet = make_fleet(factory, 1)
    with pytest.raises(FleetFailedError, match="same error: Worker exits with an exit code 3"):
        await fleet.request("double", 1)
    assert len(factory.handles) == 2
    await fleet.close()


async def test_a_worker_that_has_started_is_reported_with_its_seconds():
    started = []
    fleet = make_fleet(
        WorkerFactory(Doubler), 2, started=lambda name, seconds: started.append((name, seconds))
    )
    await turns()
    assert [name for name, _ in started] == ["doubler-0", "doubler-1"]
    assert all(0.0 <= seconds < 1.0 for _, seconds in started)
    await fleet.close()


async def test_a_request_that_kills_every_worker_fails():
    class Fragile(Doubler):
        async def break_down(self):
            next(h for h in factory.handles.values() if h.worker is self).kill()

        async def double(self, value):
            return 2 * value

    factory = WorkerFactory(Fragile)
    fleet = make_fleet(factory, 2)
    assert await fleet.request("double", 1) == 2
    with pytest.raises(FleetFailedError, match="break_down failed on 4 doubler workers"):
        await fleet.request("break_down")
    await fleet.close()


async def test_a_retryable_error_is_retried_without_replacing_the_worker():
    class Moody(Doubler):
        num_refusals = 3

        async def double(self, value):
            if self.num_refusals:
                self.num_refusals -= 1
                raise RetryableError("not now")
            return 2 * value

    factory = WorkerFactory(Moody)
    fleet = make_fleet(factory, 1)
    assert await fleet.request("double", 3) == 6
    factory.handles["doubler-0"].worker.num_refusals = 4
    with pytest.raises(FleetFailedError, match=r"double failed on 4 doubler workers.*not now"):
        await fleet.request("double", 3)
    assert list(factory.handles) == ["doubler-0"]
    await fleet.close()


async def test_many_workers_lost_at_once_are_no_crash_loop_if_they_had_served():
    num_workers = failure_policy.MAX_CONSECUTIVE_LOSSES + 2
    factory, pauses = WorkerFactory(Doubler), []
    fleet = make_fleet(factory, num_workers, pauses=pauses)
    await turns()
    for _ in range(2):  # a node is lost with all of them
        old = list(factory.handles.values())[-num_workers:]
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


async def test_busy_time_is_the_sum_over_workers():
    factory = WorkerFactory(Doubler)
    fleet = make_fleet(factory, 2)
    await turns()
    assert fleet.busy_s == 0.0
    for handle in factory.handles.values():
        handle.worker.gate.clear()
    began = time.monotonic()
    requests = [asyncio.ensure_future(fleet.request("double", n)) for n in range(2)]
    await turns()
    earlier, before = fleet.busy_s, time.monotonic()
    await asyncio.sleep(0.02)
    assert fleet.busy_s - earlier >= 2 * 0.02  # of requests that still go on
    for handle in factory.handles.values():
        handle.worker.gate.set()
    await asyncio.gather(*requests)
    done = fleet.busy_s
    assert 2 * (time.monotonic() - began) >= done >= 2 * 0.02
    assert before > began
    await turns()
    assert fleet.busy_s == done
    await fleet.close()


async def test_closing_ends_waiting_requests_with_an_error():
    fleet = make_fleet(WorkerFactory(Doubler), 0)
    request = asyncio.ensure_future(fleet.request("double", 5))
    await turns()
    await fleet.close()
    with pytest.raises(FleetFailedError, match="was closed"):
        await request


@pytest.mark.parametrize("keeps", [True, False])
async def test_a_version_is_synced_during_a_request_only_with_syncs_while_serving(
    keeps,
):
    factory = WorkerFactory(Doubler)
    fleet = make_fleet(factory, 1, keeps=keeps)
    fleet.announce("v1")
    await turns()
    worker = factory.handles["doubler-0"].worker
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


async def test_a_worker_that_fails_to_sync_during_a_request_is_replaced_and_its_request_retried():
    def picky(number):
        worker = Doubler(number)

        async def load(version):
            if number == 0 and version == "v2":
                raise OSError("cannot be read")
            worker.version = version

        worker.load = load
        return worker

    events = []
    factory = WorkerFactory(picky)
    fleet = make_fleet(factory, 1, keeps=True, events=events)
    fleet.announce("v1")
    await turns()
    first = factory.handles["doubler-0"].worker
    first.gate.clear()
    request = asyncio.ensure_future(fleet.request("double", 4))
    await turns()
    fleet.announce("v2")
    await turns()
    first.gate.set()
    assert await request == 8
    assert factory.handles["doubler-1"].worker.started == [4]
    assert events[0] == "doubler-0 could not load the newest weights: OSError('cannot be read')"
    await fleet.close()


@pytest.mark.parametrize("is_replaced", [True, False])
async def test_a_version_deleted_before_it_was_read_is_left_for_a_newer_one(is_replaced):
    def late(number):
        worker = Doubler(number)

        async def load(version):
            if version == "v1":
                if is_replaced:
                    fleet.announce("v2")
                raise FileNotFoundError("weights v1 are no longer there")
            worker.version = version

        worker.load = load
        return worker

    events = []
    factory = WorkerFactory(late)
    fleet = make_fleet(factory, 1, events=events)
    fleet.announce("v1")
    if is_replaced:
        assert await fleet.request("version_now") == "v2"
        assert events == []
        assert list(factory.handles) == ["doubler-0"]
    else:
        with pytest.raises(FleetFailedError, match="no longer there"):
            await fleet.request("version_now")
    await fleet.close()


async def test_a_request_wakes_the_worker_that_has_been_idle_longest():
    factory = WorkerFactory(Doubler)
    fleet = make_fleet(factory, 3)
    await turns()
    for expected in (0, 1, 2, 0, 1, 2):
        assert await fleet.request("who") == expected
        await turns()
    await fleet.close()


async def test_every_request_is_served_while_workers_come_and_go_and_versions_are_announced():
    rng = random.Random(0)
    factory = WorkerFactory(Doubler)
    fleet = make_fleet(factory, 2, keeps=True)
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
                rng.choice(list(factory.handles.values())).kill()
        await turns(rng.randrange(4))
    assert await asyncio.gather(*requests) == [2 * number for number in range(300)]
    await fleet.close()
