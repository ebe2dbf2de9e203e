"""Learning-rate schedules as functions of the step, so a resumed run needs no scheduler state."""

import math
from typing import Literal

Schedule = Literal["constant", "cosine", "linear"]
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


def cosine_rate(peak: float, step: int, num_steps: int) -> float:
    """Rise linearly to the peak, then fall along a half cosine to a tenth of it.

    Args:
        peak: the largest rate, reached at step WARM_UP_STEPS - 1.
        step: optimizer steps done before this one, in this stage.
        num_steps: steps of the stage; the last one, num_steps - 1, has the final rate. A stage
            no longer than the warm-up only rises.

    Returns:
        The rate of this step; later steps than the last keep the final rate.
    """
    if step < WARM_UP_STEPS:
        return constant_rate(peak, step)
    progress = min((step + 1 - WARM_UP_STEPS) / max(num_steps - WARM_UP_STEPS, 1), 1.0)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return peak * (FINAL_FRACTION + (1.0 - FINAL_FRACTION) * cosine)


def linear_rate(peak: float, step: int, num_steps: int) -> float:
    """Rise linearly to the peak, then fall linearly to a tenth of it; arguments as cosine_rate."""
    if step < WARM_UP_STEPS:
        return constant_rate(peak, step)
    progress = min((step + 1 - WARM_UP_STEPS) / max(num_steps - WARM_UP_STEPS, 1), 1.0)
    return peak * (1.0 + (FINAL_FRACTION - 1.0) * progress)


def scheduled_rate(schedule: Schedule, peak: float, step: int, num_steps: int) -> float:
    """Return the rate of a step on the schedule of this name; arguments as cosine_rate."""
    match schedule:
        case "constant":
            return constant_rate(peak, step)
        case "cosine":
            return cosine_rate(peak, step, num_steps)
        case "linear":
            return linear_rate(peak, step, num_steps)
