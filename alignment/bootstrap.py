"""Bootstrap intervals of a mean."""

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
"""Of the bootstrap: enough for two digits of an interval's ends."""


SEED = 0
"""Of the bootstrap."""


def with_interval(values: NDArray[np.float64]) -> dict[str, float | int | None]:
    """Average over rows, with a 95 % interval by bootstrap over them.

    Args:
        values: [row], nan where a row has none.

    Returns:
        mean, low and high, None where no row has a value, and num_rows, those that have one.
    """
    known = values[np.isfinite(values)]
    if not len(known):
        return {"mean": None, "low": None, "high": None, "num_rows": 0}
    rng = np.random.default_rng(SEED)
    means = [rng.choice(known, len(known)).mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975]).tolist()
    return {"mean": _mean(known), "low": low, "high": high, "num_rows": len(known)}


def _mean(values: NDArray[np.float64]) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None
