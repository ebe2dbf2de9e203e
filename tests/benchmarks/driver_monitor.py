"""CPU time, memory and event-loop lag of a driver with a fleet."""

import asyncio
import resource
import time
from typing import NamedTuple

import numpy as np
import psutil

from tests.benchmarks.virtual_workers import GROUP_SIZE

SAMPLE_S = 5.0
WAKE_S = 0.02
TREND_S = 120.0  # a shorter trend is dominated by the trajectories of single steps


class DriverSample(NamedTuple):
    """The totals of the driver at one time."""

    time_s: float
    driver_cpu_s: float
    hosts_cpu_s: float
    resident_mib: float
    num_trajectories: int


class DriverMonitor:
    """Samples the driver every 5 s and measures the lag of its event loop."""

    def __init__(self, fleet, hosts, duration_s):
        self._fleet, self._hosts, self._duration_s = fleet, hosts, duration_s
        self._lags = np.ones(
            round(duration_s / WAKE_S) + 1
        )  # written now, so that memory does not grow
        self._num_lags = 0
        self.samples = []

    def _sample(self):
        used = resource.getrusage(resource.RUSAGE_SELF)
        times = [host.cpu_times() for host in self._hosts]
        num_served = sum(member.num_served for member in self._fleet.status())
        self.samples.append(
            DriverSample(
                time.monotonic(),
                used.ru_utime + used.ru_stime,
                sum(t.user + t.system for t in times),
                psutil.Process().memory_info().rss / 2**20,
                num_served * GROUP_SIZE,
            )
        )

    async def run(self):
        end = time.monotonic() + self._duration_s
        self._sample()
        while (now := time.monotonic()) < end:
            await asyncio.sleep(WAKE_S)
            self._lags[self._num_lags] = time.monotonic() - now - WAKE_S
            self._num_lags += 1
            if time.monotonic() >= min(self.samples[-1].time_s + SAMPLE_S, end):
                self._sample()

    def rates(self):
        """Return trajectories per second between consecutive samples."""
        spans = zip(self.samples[1:], self.samples, strict=False)
        return [(b.num_trajectories - a.num_trajectories) / (b.time_s - a.time_s) for b, a in spans]

    def _growth(self):
        """Return the growth of memory over the second half, in MiB per minute."""
        half = np.asarray(self.samples)[len(self.samples) // 2 :]
        return 60 * np.polyfit(half[:, 0] - half[0, 0], half[:, 3], 1)[0]

    def row(self, size, started_s, ideal):
        first, last = self.samples[0], self.samples[-1]
        elapsed_s = last.time_s - first.time_s
        rate = (last.num_trajectories - first.num_trajectories) / elapsed_s
        driver = (last.driver_cpu_s - first.driver_cpu_s) / elapsed_s
        hosts = (last.hosts_cpu_s - first.hosts_cpu_s) / elapsed_s
        growth = f"{self._growth():+11.2f}" if elapsed_s >= TREND_S else ""
        middle, late = 1000 * np.quantile(self._lags[: self._num_lags], [0.5, 0.99])
        speed = f"{size:7} {started_s:7.1f} {elapsed_s:8.0f} {rate:9.1f} {rate / ideal:7.3f}"
        cost = f"{driver:7.1%} {hosts:7.1%} {middle:7.1f} {late:7.1f}"
        return f"{speed} {cost} {last.resident_mib:8.1f} {growth}"
