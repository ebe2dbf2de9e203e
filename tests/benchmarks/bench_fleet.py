"""The driver at fleet size: how close to the ideal it keeps 2,000 rollout workers, at what cost.

    python -m tests.benchmarks.bench_fleet --minutes 10 --plot fleet.png

The fleet, sampler, ledger and Ray handles are the real ones; the workers are virtual, hosted by
four actors, and answer a prompt's group after a pause, uniform within half of the mean and one and
a half of it, with packed trajectories of 10 kB. Every step ends in new weights, so each worker also
syncs before its next request. The ideal is a fleet that never waits: workers / mean pause, in
trajectories. CPU is of one core, the driver's process and all hosts together, on the same machine;
lag is how late the driver's event loop woke up; MiB is the driver's resident memory at the end, and
MiB a minute its trend over the second half of a row of two minutes or more.
"""

import argparse
import asyncio
import time
from pathlib import Path

import psutil
import ray

from actors.config.objective import ObjectiveConfig
from actors.messages import Canary, Published
from alignment.mdp.trajectories import PolicyVersion
from cluster.driver.sampler import Draws, Sampler
from cluster.fleet.fleet import Fleet
from cluster.fleet.members import READY
from tests.benchmarks.driver_watch import Watch
from tests.benchmarks.virtual_workers import (
    GROUP_SIZE,
    NUM_HOSTS,
    Prompts,
    VirtualHandle,
    start_hosts,
)

SIZES = (200, 1000, 2000)
STALENESS_STEPS = 2  # a slow prompt takes 1.5 pauses, in which others begin 1.5 steps
WARM_UP_PAUSES = 3  # until the workers, who start at once, are out of step
START_LOOK_S = 0.02
PRINTED_LOOKS = 6  # of the long row, every sixth: each half minute


def weights(step):
    return Published(PolicyVersion(0, step), "", "", Canary((0,), ()))


async def step_on(fleet, sampler):
    """Take steps for ever: a learner that needs no time."""
    num_steps = 0
    while True:
        sampler.advance(num_steps)
        sampled = await sampler.step()
        sampler.mark_trained(sampled.draws)
        num_steps += 1
        fleet.announce(weights(num_steps))


async def measure(hosts, size, duration_s, mean_s):
    """Return what was seen of a fleet of this size, and the seconds until all of it served."""

    async def sync(handle, published):
        await handle.call("sync_weights", published)

    def start(name):
        return VirtualHandle(hosts[int(name.rpartition("-")[2]) % len(hosts)])

    processes = [psutil.Process(await host.call(READY)) for host in hosts]
    fleet = Fleet("rollout", start, timeout_s=600.0, sync=sync)
    began = time.monotonic()
    fleet.announce(weights(0))
    fleet.scale(size)
    while not fleet.has_target_size:
        await asyncio.sleep(START_LOOK_S)
    started_s = time.monotonic() - began
    objective = ObjectiveConfig(
        prompts_per_step=size, group_size=GROUP_SIZE, max_staleness_steps=STALENESS_STEPS
    )
    data = Prompts()
    draws = Draws(data.row_of_draw, 0, ())
    sampler = Sampler(
        fleet, draws, data, objective, num_steps=10**6, max_sequences=GROUP_SIZE, seed=0
    )
    steps = asyncio.ensure_future(step_on(fleet, sampler))
    await asyncio.wait({steps}, timeout=WARM_UP_PAUSES * mean_s)
    watch = Watch(fleet, processes, duration_s)
    watching = asyncio.ensure_future(watch.run())
    await asyncio.wait({steps, watching}, return_when=asyncio.FIRST_COMPLETED)
    if steps.done():
        steps.result()  # they end only in an error
    steps.cancel()
    sampler.close()
    await fleet.close(patience_s=2 * mean_s)
    return watch, started_s


def plot(watch, ideal, path):
    import matplotlib  # noqa: PLC0415

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    minutes = [(look.time_s - watch.looks[0].time_s) / 60 for look in watch.looks]
    figure, (above, below) = pyplot.subplots(2, sharex=True, figsize=(7, 5))
    above.plot(minutes[1:], watch.rates())
    above.axhline(ideal, color="gray", linestyle="--", label="ideal")
    above.set(ylabel="trajectories/s", ylim=(0, None))
    above.legend()
    memory = [look.resident_mib for look in watch.looks]
    below.plot(minutes, memory)
    below.set(xlabel="minutes", ylabel="driver's memory in MiB", ylim=(0, 1.2 * max(memory)))
    figure.savefig(path, dpi=150, bbox_inches="tight")


def arguments_given():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="of the long row")
    parser.add_argument("--short", type=float, default=0.5, help="minutes of each other row")
    parser.add_argument("--mean", type=float, default=10.0, help="seconds a worker pauses")
    parser.add_argument("--plot", type=Path, help="save the long row's memory and throughput here")
    return parser.parse_args()


async def measure_all(options):
    hosts = start_hosts(max(SIZES), options.mean)
    rows = [*((size, options.short) for size in SIZES), (max(SIZES), options.minutes)]
    print("workers  up in s  seconds  traj./s  of ideal  driver   hosts   lag ms: p50, p99", end="")
    print("      MiB  MiB a minute")
    for size, minutes in rows:
        watch, started_s = await measure(hosts, size, 60 * minutes, options.mean)
        ideal = size / options.mean * GROUP_SIZE
        print(watch.row(size, started_s, ideal), flush=True)
    for look in watch.looks[::PRINTED_LOOKS]:
        print(f"{look.time_s - watch.looks[0].time_s:6.0f} s {look.resident_mib:8.1f} MiB")
    if options.plot:
        plot(watch, ideal, options.plot)


def main():
    options = arguments_given()
    ray.init(
        address="local",
        num_cpus=2 * NUM_HOSTS,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 * 2**20,
    )
    asyncio.run(measure_all(options))
    ray.shutdown()


if __name__ == "__main__":
    main()
