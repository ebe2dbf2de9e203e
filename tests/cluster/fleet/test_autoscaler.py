"""The autoscaler in simulated runs: a learner, and workers whose service times are noisy."""

import heapq
import random

import pytest

from cluster.config.run_config import AutoscaleConfig
from cluster.fleet.autoscaler import (
    GROW_ABOVE,
    NUM_STEPS,
    SHRINK_BELOW,
    AutoscalerState,
    StepTimes,
    advise,
    step_times,
)

LIMITS = AutoscaleConfig(min_workers=1, max_workers=16)
REQUESTS = 48
"""Of a step."""


class Simulation:
    """Steps of a run in simulated time: workers take requests in order, the learner whole steps.

    Requests of a step may begin once all but max_staleness of the steps before are learned. The
    autoscaler is evaluated after each step; a new worker starts some seconds later.
    """

    def __init__(self, *, size, staleness, limits=LIMITS, noise=0.4, seed=0):
        self.size, self.staleness, self.limits, self.noise = size, staleness, limits, noise
        self.random = random.Random(seed)
        self.free = [0.0] * size  # when each worker is next free
        self.learned = [0.0]  # when each step was
        self.ready = []  # when each step's last request was done
        self.busy = []  # (from, to) of each request
        self.state = AutoscalerState()
        self.changes = []  # (step, size)

    def noisy(self, mean):
        return mean * self.random.lognormvariate(-(self.noise**2) / 2, self.noise)

    def work_between(self, began, ended):
        self.busy = [span for span in self.busy if span[1] > began]
        return sum(min(end, ended) - max(start, began) for start, end in self.busy if start < ended)

    def sample_next(self, request_s):
        gate = self.learned[max(0, len(self.ready) - self.staleness)]
        ends = []
        for _ in range(REQUESTS):
            start = max(heapq.heappop(self.free), gate)
            ends.append(start + self.noisy(request_s))
            heapq.heappush(self.free, ends[-1])
            self.busy.append((start, ends[-1]))
        self.ready.append(max(ends))

    def step(self, *, request_s, learning_s):
        number, before = len(self.learned) - 1, self.learned[-1]
        while len(self.ready) <= number + self.staleness:
            self.sample_next(request_s)
        begins = max(self.ready[number], before)
        now = begins + learning_s * self.random.lognormvariate(0.0, self.noise / 4)
        self.learned.append(now)
        return StepTimes(now - before, begins - before, self.work_between(before, now))

    def follow(self, advice):
        now = self.learned[-1]
        self.state = advice.state
        if advice.size == self.size:
            return
        for _ in range(advice.size - self.size):
            heapq.heappush(self.free, now + 5.0)
        self.free = sorted(self.free)[: advice.size]
        heapq.heapify(self.free)
        self.size = advice.size
        self.changes.append((len(self.learned) - 1, advice.size))

    def run(self, num_steps, *, request_s, learning_s=10.0):
        """Return the learner's idle share over the second half."""
        seen = []
        for _ in range(num_steps):
            times = self.step(request_s=request_s, learning_s=learning_s)
            seen.append(times)
            now = self.learned[-1]
            self.follow(advise(self.state, times, size=self.size, now_s=now, limits=self.limits))
        late = seen[num_steps // 2 :]
        return sum(t.idle_s for t in late) / sum(t.step_s for t in late)


def load(size, request_s, learning_s=10.0):
    return REQUESTS * request_s / (size * learning_s)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_the_fleet_settles_at_the_smallest_size_that_keeps_the_learner_busy(staleness, seed):
    run = Simulation(size=1, staleness=staleness, seed=seed)
    for factor in (1.0, 2.0, 1.0, 0.5, 1.0):  # the load doubles, halves, halves, doubles
        num_changes, request_s = len(run.changes), 0.7 * factor
        idle_share = run.run(80, request_s=request_s)
        assert len(run.changes) - num_changes <= 3
        assert all(step < len(run.learned) - 40 for step, _ in run.changes)  # the size has settled
        # This size keeps the load below the band's top, and one fewer would not below its bottom.
        assert load(run.size, request_s) <= GROW_ABOVE
        assert load(run.size - 1, request_s) >= SHRINK_BELOW
        # Alternating, a load of 1 leaves the learner idle for half of the time; else for almost 0.
        assert idle_share < (0.54 if staleness == 0 else 1 - 1 / GROW_ABOVE)


def test_without_noise_and_with_the_same_load_the_size_never_moves():
    run = Simulation(size=4, staleness=0, noise=0.0)
    run.run(100, request_s=0.7)
    assert run.changes == []


def advised_sizes(steps, *, size, limits=LIMITS, state=None, seconds_apart=10.0):
    """Return the size advised after each step; the fleet keeps its size."""
    state, given = state or AutoscalerState(), []
    for number, step in enumerate(steps):
        now_s = number * seconds_apart
        advice = advise(state, step, size=size, now_s=now_s, limits=limits)
        given.append(advice.size)
        state = advice.state
    return given


STARVED = StepTimes(
    step_s=40.0, idle_s=30.0, work_s=60.0
)  # 10 s of rest: 6 workers make the load 1
SATURATED = StepTimes(step_s=10.0, idle_s=0.0, work_s=8.0)  # of 10 s of rest: 1 worker, at 0.8


def test_the_size_that_makes_the_load_one_is_advised_once_enough_steps_agree():
    assert advised_sizes([STARVED] * NUM_STEPS, size=2) == [2] * (NUM_STEPS - 1) + [6]
    assert advised_sizes([SATURATED] * NUM_STEPS, size=4) == [4] * (NUM_STEPS - 1) + [1]


def test_one_long_step_changes_nothing():
    steps = [SATURATED] * NUM_STEPS + [STARVED._replace(work_s=200.0)] + [SATURATED] * NUM_STEPS
    assert advised_sizes(steps, size=1) == [1] * len(steps)


@pytest.mark.parametrize(("load", "advised"), [(1.09, 4), (1.11, 5), (0.65, 4), (0.63, 3)])
def test_between_growing_and_shrinking_there_is_a_band(load, advised):
    # 4 workers shrink to 3 when those would have a load of 0.85: at 0.6375 of their own.
    steps = [StepTimes(step_s=10.0, idle_s=0.0, work_s=40.0 * load)] * NUM_STEPS
    assert advised_sizes(steps, size=4)[-1] == advised


def test_the_limits_hold_even_for_a_size_outside_of_them():
    limits = AutoscaleConfig(min_workers=2, max_workers=5)
    assert advised_sizes([STARVED] * NUM_STEPS, size=2, limits=limits)[-1] == 5
    assert advised_sizes([SATURATED] * NUM_STEPS, size=4, limits=limits)[-1] == 2
    assert advised_sizes([SATURATED] * NUM_STEPS, size=1, limits=limits)[-1] == 2
    assert advised_sizes([STARVED] * NUM_STEPS, size=7, limits=limits)[-1] == 5


def test_there_is_no_second_change_before_the_cool_down_ends():
    state = AutoscalerState((), changed_at_s=0.0)
    given = advised_sizes([STARVED] * 14, size=2, state=state, seconds_apart=5.0)
    assert given[:12] == [2] * 12  # up to 55 s
    assert given[12] == 6


def test_the_reason_states_the_load():
    state = AutoscalerState((STARVED,) * NUM_STEPS, 0.0)
    advice = advise(state, STARVED, size=2, now_s=99.0, limits=LIMITS)
    assert advice.reason == "sampling took 3.00 times as long as the rest of a step"
    assert advice.state == AutoscalerState((), 99.0)


@pytest.mark.parametrize(
    ("sampling_s", "learning_s", "idle_s"),
    [(6.0, 4.0, 6.0), (6.0, 7.0, 3.0), (6.0, 10.0, 0.0)],
)
def test_the_idle_time_is_bounded_by_the_drivers_wait_and_by_the_time_the_learner_did_not_work(
    sampling_s, learning_s, idle_s
):
    metrics = {"time/step_s": 10.0, "time/learning_s": learning_s}
    metrics |= {"time/sampling_s": sampling_s - 1.0, "time/sync_s": 1.0}
    assert step_times(metrics, 7.0) == StepTimes(10.0, idle_s, 7.0)
