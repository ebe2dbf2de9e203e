"""Computes the number of rollout workers that keep the learner busy, after every step.

Let work be the seconds that all rollout workers together spent on a step's requests, and rest the
time that the step would take if sampling took no time. n workers need work / n for the sampling, so

    load(n) = work / (n * rest)

compares the time for sampling with the time for the rest. The rule is: keep load(n) near 1.
With max_staleness_steps > 0 sampling overlaps the rest, so at a load of up to 1 the learner does
not wait, and more workers would only idle. With 0 the phases alternate: more workers shorten every
step, each by less than the one before, and at a load of 1 half of the step is sampling.

Three things keep the size from oscillating: it grows at a load above 1.1 and shrinks only if the
load of the smaller fleet is at most 0.85; the load is measured over several steps, of which the
older and the newer half must agree; and after a change there is a cool-down.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cluster.config.run_config import AutoscaleConfig

GROW_ABOVE = 1.1
"""A load: where phases overlap, the learner idles at it for 1 - 1 / 1.1 = 9 % of its time."""
SHRINK_BELOW = 0.85
"""A load of the smaller fleet: below 1, as a reserve for steps that take longer than others."""
NUM_STEPS = 8
"""Steps since the last change over which the load is measured. Sampling runs ahead in bursts, so
a single step may contain more or less work than its own requests took."""
COOL_DOWN_S = 60.0
"""Shortest time between two changes of size: a new worker needs most of it to start."""


class StepTimes(NamedTuple):
    """The times of one step that the autoscaler uses."""

    step_s: float
    """Time from the end of the step before to the end of this one."""
    idle_s: float
    """Part of it in which the learner waited for trajectories."""
    work_s: float
    """Seconds spent on requests during it, summed over rollout workers."""


@dataclass(frozen=True)
class AutoscalerState:
    """State of the autoscaler between steps."""

    steps: tuple[StepTimes, ...] = ()
    """The newest steps since the size last changed, at most NUM_STEPS."""
    changed_at_s: float = -math.inf
    """Time of the last change of size, on the clock of advise."""


class Advice(NamedTuple):
    """A size for the rollout fleet, and the reason for it."""

    state: AutoscalerState
    """For the next call of advise."""
    size: int
    reason: str
    """Empty if the size stays."""


def step_times(metrics: Mapping[str, float], work_s: float) -> StepTimes:
    """Return the times of a step from its metrics.

    The learner waited for trajectories no longer than the driver did: the rest of its idle time
    went into scoring and into training the discriminator.
    """
    waited_s = metrics["time/sampling_s"] + metrics.get("time/sync_s", 0.0)
    step_s = metrics["time/step_s"]
    idle_s = max(0.0, min(waited_s, step_s - metrics["time/learning_s"]))
    return StepTimes(step_s, idle_s, work_s)


def advise(
    state: AutoscalerState, step: StepTimes, *, size: int, now_s: float, limits: AutoscaleConfig
) -> Advice:
    """Return the number of rollout workers for the next step.

    Args:
        size: at least 1.
    """
    steps = (*state.steps, step)[-NUM_STEPS:]
    waiting = AutoscalerState(steps, state.changed_at_s)
    if len(steps) < NUM_STEPS or now_s - state.changed_at_s < COOL_DOWN_S:
        return Advice(waiting, size, "")
    older, newer, chosen = (
        min(max(_best(part, size), limits.min_workers), limits.max_workers)
        for part in (steps[: NUM_STEPS // 2], steps[NUM_STEPS // 2 :], steps)
    )
    if not (older < size > newer or older > size < newer) or chosen == size:
        return Advice(waiting, size, "")
    reason = f"sampling took {_load(steps, size):.2f} times as long as the rest of a step"
    return Advice(AutoscalerState((), now_s), chosen, reason)


def _load(steps: Sequence[StepTimes], size: int) -> float:
    work_s = sum(step.work_s for step in steps)
    rest_s = sum(step.step_s - step.idle_s for step in steps)
    return work_s / (size * max(rest_s, 1e-9))


def _best(steps: Sequence[StepTimes], size: int) -> int:
    """Return the size nearest to this one at which the load is within the two limits."""
    load_of_one = _load(steps, 1)
    if load_of_one > GROW_ABOVE * size:
        return math.ceil(load_of_one)
    return min(size, math.ceil(load_of_one / SHRINK_BELOW))
