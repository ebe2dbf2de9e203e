"""Learning-rate schedules as functions of the step, so a resumed run needs no scheduler state."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

Schedule = Literal["constant", "cosine", "linear"]
Changes = Sequence[tuple[int, int]]
"""Earlier numbers of steps of a stage: the steps that were done when each was replaced, ascending,
and the number until then."""
WARM_UP_STEPS = 5
"""Steps of linear warm-up, in which AdamW's estimates of the second moments become reliable."""
FINAL_FRACTION = 0.1
"""Final rate of the schedules that fall, as a fraction of the peak."""


def constant_rate(peak: float, step: int) -> float:
    """Rise linearly to the peak over WARM_UP_STEPS, then stay there.

    Args:
        step: optimizer steps done before this one, in this stage.

    Returns:
        The rate of this step; never 0.
    """
    return peak * min((step + 1) / WARM_UP_STEPS, 1.0)


def cosine_rate(peak: float, step: int, num_steps: int, changes: Changes = ()) -> float:
    """Rise linearly to the peak, then fall along a half cosine to a tenth of it.

    If num_steps changes during the stage, the rate falls from where it is: steps that are done keep
    their rates, and a half cosine leads from the rate of the last of them to a tenth of the peak at
    the new last step. A stage that had ended continues at a tenth of the peak.

    Args:
        peak: the largest rate, reached at step WARM_UP_STEPS - 1.
        step: optimizer steps done before this one, in this stage.
        num_steps: steps of the stage; the last one, num_steps - 1, has the final rate. A stage
            no longer than the warm-up only rises.
        changes: the earlier values of num_steps.

    Returns:
        The rate of this step; later steps than the last keep the final rate.
    """
    return _falling_rate(_half_cosine, peak, step, num_steps, changes)


def linear_rate(peak: float, step: int, num_steps: int, changes: Changes = ()) -> float:
    """Rise linearly to the peak, then fall linearly to a tenth of it; arguments as cosine_rate."""
    return _falling_rate(lambda progress: 1.0 - progress, peak, step, num_steps, changes)


def scheduled_rate(
    schedule: Schedule, peak: float, step: int, num_steps: int, changes: Changes = ()
) -> float:
    """Return the rate of a step on the schedule of this name; arguments as cosine_rate."""
    match schedule:
        case "constant":
            return constant_rate(peak, step)
        case "cosine":
            return cosine_rate(peak, step, num_steps, changes)
        case "linear":
            return linear_rate(peak, step, num_steps, changes)


def _half_cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _falling_rate(
    shape: Callable[[float], float], peak: float, step: int, num_steps: int, changes: Changes
) -> float:
    """Return the rate of a schedule that falls by a shape from 1 to 0 over progress from 0 to 1."""
    if step < WARM_UP_STEPS:
        return constant_rate(peak, step)
    lengths = [*(length for _, length in changes), num_steps]
    begins = [WARM_UP_STEPS, *(max(done, WARM_UP_STEPS) for done, _ in changes)]
    ends = [*begins[1:], step + 1]
    fraction = 1.0
    for begin, end, length in zip(begins, ends, lengths, strict=True):
        num_done = min(end, step + 1) - begin
        progress = min(num_done / max(length - begin, 1), 1.0)
        fraction = FINAL_FRACTION + (fraction - FINAL_FRACTION) * shape(progress)
        if step < end:
            break
    return peak * fraction
