"""Whether an engine computes with the weights that were published. Imports no torch.

An engine computes in another order and precision than the learner, so healthy weights differ by
rounding too. The learner measures how much of it bfloat16 makes on the same texts, and two
statistics are compared with that: the distance of the engine from the learner; and the part of the
change since the version before that the engine has made, a projection in which the rounding of the
tokens averages out, and what is the same before and after cancels. A change that rounding may hide
is not judged. Their error rates: python -m tests.benchmarks.canary_errors.
"""

import statistics
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.messages import Canary

ROUNDING_FACTOR = 4.0
"""Multiple of the learner's bfloat16 rounding by which a healthy engine may differ."""
FLOAT32_BOUND_NATS = 1e-3
"""Bound for engines in float32, of which healthy ones differ by about 1e-5."""
FLOAT32_ROUNDING_NATS = 5e-5
"""Rounding that is assumed of an engine in float32."""
LARGEST_BOUND_NATS = 1.0
"""No bound is larger: another model's weights differ by more than this."""
NEAR = 0.75
"""Part of the bound above which a difference is reported."""
SHARE_DEVIATIONS = 5.0
"""Standard deviations of rounding along the change, by which an engine may miss some of it."""
DEVIATION_FACTOR = 4.0
"""Standard deviation of an engine's rounding of a token, in mean absolute roundings of the learner:
the smallest that is assumed. Of tokens that are hard for bfloat16 it is larger."""
SMALLEST_MISSING_SHARE = 0.05
"""A smaller missing share is never held against the engine."""
CLEAR_CHANGE = 0.1
"""A change of this many roundings a token (root mean square) moves at least one score."""

Scores = Sequence[Sequence[float]]


class CanaryReading(NamedTuple):
    """What the texts say of an engine's weights."""

    difference: float
    """Median over the texts of the mean absolute difference of engine and learner, in nats per
    token."""
    bound: float
    """Largest difference of healthy weights."""
    problem: str | None
    """Why the weights are rejected; None if they are served."""
    note: str | None
    """What the user should know of weights that are served."""


def read_canary(
    canary: Canary,
    scores: Scores,
    dtype: Literal["bfloat16", "float32"],
    before: tuple[Canary, Scores] | None = None,
) -> CanaryReading:
    """Compare an engine's scores of the texts with the learner's.

    Args:
        scores: log-probabilities by the engine, with the texts and tokens of the canary.
        before: the canary of the version that the engine served before, and its scores then.
    """
    difference = statistics.median(
        float(np.abs(np.subtract(mine, theirs)).mean())
        for mine, theirs in zip(scores, canary.logprobs, strict=True)
    )
    if not np.isfinite(_flat(scores)).all():
        difference = float("nan")  # a median may hide it
    bound = canary_bound(dtype, canary.rounding_nats)
    problem = None
    if not difference <= bound:  # this way round for NaN
        problem = (
            f"engine and learner differ by {difference:.2g} nats a token, more than {bound:.2g}"
        )
    elif before is not None and before[0].texts == canary.texts:
        problem = _staleness(canary, scores, *before)
    return CanaryReading(difference, bound, problem, _note(difference, bound, canary))


def canary_bound(dtype: Literal["bfloat16", "float32"], rounding_nats: float) -> float:
    """Return the largest difference of healthy weights, in nats per token.

    Args:
        rounding_nats: what bfloat16 makes in the learner, from the canary.
    """
    if dtype == "float32":
        return FLOAT32_BOUND_NATS
    return min(max(ROUNDING_FACTOR * rounding_nats, FLOAT32_BOUND_NATS), LARGEST_BOUND_NATS)


def _staleness(canary: Canary, scores: Scores, before: Canary, scores_before: Scores) -> str | None:
    """Return in which respect the engine has not made the change since the version before."""
    expected, measured = _flat(canary.logprobs), _flat(scores)
    expected_before, measured_before = _flat(before.logprobs), _flat(scores_before)
    change = expected - expected_before
    length = float(np.linalg.norm(change))
    size = f"{float(np.abs(change).mean()):.2g} nats a token"
    rounding = max(canary.rounding_nats, FLOAT32_ROUNDING_NATS)
    is_clear = length > CLEAR_CHANGE * rounding * len(change) ** 0.5
    if is_clear and np.array_equal(measured, measured_before):
        return f"no log-probability changed, and the learner's did by {size}"
    if not length:
        return None
    missing = 1.0 - float((measured - measured_before) @ change) / length**2
    # Hard tokens move most, so the rounding of each counts by its share of the change.
    residual = np.abs(measured_before - expected_before)
    deviations = np.maximum(DEVIATION_FACTOR * rounding, 2.0**0.5 * residual)
    deviation = float(np.linalg.norm(deviations * change)) / length**2
    limit = max(SHARE_DEVIATIONS * deviation, SMALLEST_MISSING_SHARE)
    if limit >= 1.0 or missing <= limit:  # rounding could hide the whole change
        return None
    return (
        f"{min(missing, 1.0):.0%} of the change since the version before ({size}) is missing, more "
        f"than {limit:.0%}: the engine computes with old weights"
    )


def _note(difference: float, bound: float, canary: Canary) -> str | None:
    """Return a sentence for a difference near its bound, or for a bound that detects little."""
    remedy = "rollout.dtype: float32 removes the rounding"
    if ROUNDING_FACTOR * canary.rounding_nats > LARGEST_BOUND_NATS:
        return (
            f"bfloat16 alone changes the learner's log-probabilities by {canary.rounding_nats:.2g} "
            f"nats a token, so the canary detects only weights that are far off; {remedy}"
        )
    if difference > NEAR * bound:
        return (
            f"the canary is near its bound: engine and learner differ by {difference:.2g} nats a "
            f"token, and {bound:.2g} are accepted; {remedy}"
        )
    return None


def _flat(scores: Scores) -> NDArray[np.float64]:
    return np.concatenate([np.asarray(text, np.float64) for text in scores])
