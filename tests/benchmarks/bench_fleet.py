"""Throughput and cost of the driver with up to 2,000 rollout workers.

    python -m tests.benchmarks.bench_fleet --minutes 10 --plot fleet.png

Fleet, sampler, prompt ledger and Ray handles are real. The workers are virtual, hosted by four
actors: each responds to a request after a pause, uniform between 0.5 and 1.5 times its mean, with
packed trajectories of 10 kB. Every step publishes new weights, so each worker also syncs before its
next request. The ideal is a fleet that never waits: workers / mean pause, in trajectories. CPU is
in percent of one core, for the driver's process and for all hosts together, on the same machine.
Lag is the delay of the driver's event loop. MiB is the driver's resident memory at the end, MiB per
minute its trend over the second half of a row of two minutes or more.
"""

import asyncio
import time
from pathlib import Path

import psutil
import ray
from matplotlib.figure import Figure

from actors.config.objective import ObjectiveConfig
from actors.messages import Canary, Published
from alignment.mdp.trajectories import PolicyVersion
from cluster.driver.sampler import Draws, Sampler
from cluster.fleet.fleet import Fleet
from cluster.fleet.members import READY
from tests.benchmarks.command_line import make_parser
from tests.benchmarks.driver_monitor import DriverMonitor
from tests.benchmarks.virtual_workers import (
    GROUP_SIZE,
    NUM_HOSTS,
    Prompts,
    VirtualHandle,
    start_hosts,
)

SIZES = (200, 1000, 2000)
STALENESS_STEPS = 2  # a slow prompt takes 1.5 pauses, in which others start 1.5 steps
WARM_UP_PAUSES = 3  # until the workers, which start at once, are desynchronized
POLL_S = 0.02
PRINTED_EVERY = 6  # samples of the long row: every half minute


def weights(step):
    return Published(PolicyVersion(0, step), "", "", Canary((0,), ()))


async def run_steps(fleet, sampler):
    """Take steps forever, with a learner that takes no time."""
    num_steps = 0
    while True:
        sampler.advance(num_steps)
        sampled = await sampler.step()
        sampler.mark_trained(sampled.draws)
        num_steps += 1
        fleet.announce(weights(num_steps))


async def measure(hosts, size, duration_s, mean_s):
    """Return the monitor of a fleet of this size, and the seconds until all of it serves."""

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
        await asyncio.sleep(POLL_S)
    started_s = time.monotonic() - began
    objective = ObjectiveConfig(
        prompts_per_step=size, group_size=GROUP_SIZE, max_staleness_steps=STALENESS_STEPS
    )
    data = Prompts()
    draws = Draws(data.row_of_draw, 0, ())
    sampler = Sampler(
        fleet, draws, data, objective, num_steps=10**6, max_sequences=GROUP_SIZE, seed=0
    )
    steps = asyncio.ensure_future(run_steps(fleet, sampler))
    await asyncio.wait({steps}, timeout=WARM_UP_PAUSES * mean_s)
    monitor = DriverMonitor(fleet, processes, duration_s)
    monitoring = asyncio.ensure_future(monitor.run())
    await asyncio.wait({steps, monitoring}, return_when=asyncio.FIRST_COMPLETED)
    if steps.done():
        steps.result()  # steps end only with an error
    steps.cancel()
    sampler.close()
    await fleet.close(patience_s=2 * mean_s)
    return monitor, started_s


def plot(monitor, ideal, path):
    minutes = [(each.time_s - monitor.samples[0].time_s) / 60 for each in monitor.samples]
    figure = Figure(figsize=(7, 5))
    above, below = figure.subplots(2, sharex=True)
    above.plot(minutes[1:], monitor.rates())
    above.axhline(ideal, color="gray", linestyle="--", label="ideal")
    above.set(ylabel="trajectories/s", ylim=(0, None))
    above.legend()
    memory = [each.resident_mib for each in monitor.samples]
    below.plot(minutes, memory)
    below.set(xlabel="minutes", ylabel="memory of the driver, MiB", ylim=(0, 1.2 * max(memory)))
    figure.savefig(path, dpi=150, bbox_inches="tight")


def parse_arguments():
    parser = make_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="duration of the long row")
    parser.add_argument("--short", type=float, default=0.5, help="minutes of each other row")
    parser.add_argument("--mean", type=float, default=10.0, help="mean seconds of a pause")
    parser.add_argument("--plot", type=Path, help="file for the plot of the long row")
    return parser.parse_args()


async def measure_all(options):
    hosts = start_hosts(max(SIZES), options.mean)
    rows = [*((size, options.short) for size in SIZES), (max(SIZES), options.minutes)]
    print("workers  up in s  seconds  traj./s  of ideal  driver   hosts   lag ms: p50, p99", end="")
    print("      MiB  MiB/minute")
    for size, minutes in rows:
        monitor, started_s = await measure(hosts, size, 60 * minutes, options.mean)
        ideal = size / options.mean * GROUP_SIZE
        print(monitor.row(size, started_s, ideal), flush=True)
    for each in monitor.samples[::PRINTED_EVERY]:
        print(f"{each.time_s - monitor.samples[0].time_s:6.0f} s {each.resident_mib:8.1f} MiB")
    if options.plot:
        plot(monitor, ideal, options.plot)


def main():
    options = parse_arguments()
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
