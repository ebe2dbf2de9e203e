"""95 % intervals: bootstrap intervals of means, and Wilson's interval of a share."""

from math import sqrt

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
"""Bootstrap resamples: enough for two digits of the ends of an interval."""
SEED = 0
NORMAL_QUANTILE = 1.959963984540054
"""Of 0.975: two-sided 95 %."""


def with_interval(values: NDArray[np.float64]) -> dict[str, float | int | None]:
    """Average over rows, with a 95 % bootstrap interval over them.

    Args:
        values: [row], nan for a row without a value.

    Returns:
        mean, low and high, None if no row has a value, and num_rows, the rows with a value.
    """
    known = values[np.isfinite(values)]
    if not len(known):
        return {"mean": None, "low": None, "high": None, "num_rows": 0}
    rng = np.random.default_rng(SEED)
    means = [rng.choice(known, len(known)).mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975]).tolist()
    return {"mean": mean_of_finite(known), "low": low, "high": high, "num_rows": len(known)}


def mean_of_finite(values: NDArray[np.float64]) -> float | None:
    """Average the finite values; None if there are none."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def wilson_interval(num_matching: int, num_texts: int) -> tuple[float, float]:
    """Return Wilson's interval of the share num_matching / num_texts.

    It lies inside [0, 1], also for few texts, and for shares near 0 and 1 it has the right
    coverage.

    Args:
        num_texts: at least one.

    References:
        Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    n, p, z = num_texts, num_matching / num_texts, NORMAL_QUANTILE
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = 0.0 if num_matching == 0 else center - half  # exact, where rounding is not
    high = 1.0 if num_matching == n else center + half
    return low, high
