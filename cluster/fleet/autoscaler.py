"""How many rollout workers keep the learner fed: a pure decision after every step.

Let work be the seconds that all rollout workers together spent on a step's requests, and rest the
time that the step would take if sampling took none. n workers need work / n for the sampling, and

    load(n) = work / (n * rest)

is how long that is beside the rest. One rule serves both kinds of loop: load(n) shall be about 1.
With max_staleness_steps > 0 sampling is hidden behind the rest, so up to 1 the learner does not
wait, and more workers would only idle. With 0 the phases alternate: more workers shorten every
step, but ever less each, and at 1 half of it is sampling already.

Three things keep the size from flapping: it grows above a load of 1.1 and shrinks only if the
smaller fleet would have at most 0.85; load is taken over several steps, of which the older half and
the newer half must agree; and a change is left alone for a while.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cluster.config.run_config import AutoscaleConfig

GROW_ABOVE = 1.1
"""Of the load: where phases overlap, the learner then idles for 1 - 1 / 1.1 = 9 % of its time."""
SHRINK_BELOW = 0.85
"""Of the smaller fleet's load: what it keeps in hand for steps that are longer than others."""
NUM_STEPS = 8
"""Since the last change, over which the load is taken: workers run ahead in bursts, so a single
step sees more or less than its own share of their work."""


COOL_DOWN_S = 60.0
"""No change of size sooner after the one before: a new worker needs most of it to come up."""


class StepTimes(NamedTuple):
    """What one step tells of the fleet."""

    step_s: float
    """From the end of the step before to the end of this one."""
    idle_s: float
    """Of it, how long the learner had nothing to do for want of trajectories."""
    work_s: float
    """Seconds that the rollout workers spent on requests meanwhile, added up over workers."""


@dataclass(frozen=True)
class AutoscalerState:
    """What the autoscaler remembers between steps."""

    seen: tuple[StepTimes, ...] = ()
    """The newest steps since the size last changed, at most NUM_STEPS."""
    changed_at_s: float = -math.inf
    """When the size last changed."""


class Advice(NamedTuple):
    """A size for the fleet, and why."""

    state: AutoscalerState
    """To be remembered."""
    size: int
    reason: str
    """Empty if the size stays."""


def step_times(metrics: Mapping[str, float], work_s: float) -> StepTimes:
    """Read a step's metrics.

    Of the time that the learner did not work, no more can have been for want of trajectories than
    the driver waited for them: the rest went into scoring and the discriminator.

    Args:
        metrics: of the step, with its times.
        work_s: of the rollout workers meanwhile.

    Returns:
        What the autoscaler looks at.
    """
    waited_s = metrics["time/sampling_s"] + metrics.get("time/sync_s", 0.0)
    step_s = metrics["time/step_s"]
    idle_s = max(0.0, min(waited_s, step_s - metrics["time/learning_s"]))
    return StepTimes(step_s, idle_s, work_s)


def advise(
    state: AutoscalerState, seen: StepTimes, *, size: int, now_s: float, limits: AutoscaleConfig
) -> Advice:
    """Say how many rollout workers there should be.

    Args:
        state: what was returned last, or a new one.
        seen: the step just finished, throughout which size workers served.
        size: of the fleet, at least 1.
        now_s: on the clock of state.changed_at_s.
        limits: between which the size moves.

    Returns:
        The size, with what to remember.
    """
    steps = (*state.seen, seen)[-NUM_STEPS:]
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
    """Return size, or if the load is out of the band the size nearest to it that brings it in."""
    load_of_one = _load(steps, 1)
    if load_of_one > GROW_ABOVE * size:
        return math.ceil(load_of_one)
    return min(size, math.ceil(load_of_one / SHRINK_BELOW))
