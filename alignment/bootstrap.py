"""Bootstrap intervals of means."""

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
"""Bootstrap resamples: enough for two digits of the ends of an interval."""
SEED = 0


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
