"""The simplest reward model: it prefers the longer response, or the shorter. Others must beat it.

References:
    Singhal et al. 2023, "A long way to go", arXiv:2310.03716: much of what reward models learn is
    length.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from alignment.reward_model import rows_in_order
from alignment.reward_model_figures import HeldOut, with_interval


def preferred_length(
    response_tokens: Sequence[int], ranks: NDArray[np.float32], row_sizes: Sequence[int]
) -> Literal["longer", "shorter"]:
    """Learn from comparisons which of two responses is mostly preferred; each row counts the same.

    Args:
        response_tokens: [response] length.
        ranks: [response] of row after row, 0 for the best, equal for a tie.
        row_sizes: responses in each row.

    Returns:
        "longer" also where both are preferred equally often.
    """
    in_order = rows_in_order(np.asarray(response_tokens, np.float32), ranks, row_sizes)
    known = in_order[np.isfinite(in_order)]
    return "longer" if not len(known) or known.mean() >= 0.5 else "shorter"


def length_baseline(prefers: Literal["longer", "shorter"], held_out: HeldOut) -> dict[str, Any]:
    """Measure how often length alone is right, an equal length half right, as a model is measured.

    Args:
        prefers: as preferred_length has learned it from training rows.
        held_out: other rows.

    Returns:
        prefers, and mean, low, high and num_rows of its accuracy.
    """
    sign = 1.0 if prefers == "longer" else -1.0
    scores = sign * np.asarray(held_out.response_tokens, np.float32)
    in_order = rows_in_order(scores, held_out.ranks, held_out.sizes)
    return {"prefers": prefers, **with_interval(in_order)}
