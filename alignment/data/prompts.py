"""In which order the training prompts come: a new shuffle each epoch, endless, and resumable."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

EPOCHS_REMEMBERED = 2
"""The draws in flight at one time span an epoch's edge at most."""


def prompt_of_draw(number: int, *, num_prompts: int, seed: int) -> int:
    """Return which prompt a draw is.

    Draws are numbered over the whole run, number = epoch * num_prompts + position, so the number of
    the next one is all there is to save. An epoch holds every prompt once, in an order that follows
    from seed and epoch alone.

    Args:
        number: of the draw, from 0.
        num_prompts: prompts in an epoch.
        seed: of the run.

    Returns:
        An index below num_prompts.

    Raises:
        ValueError: if there are no prompts, or the number is negative.
    """
    if num_prompts < 1 or number < 0:
        raise ValueError(f"there is no draw number {number} of {num_prompts} prompts")
    epoch, position = divmod(number, num_prompts)
    return int(_order(num_prompts, seed, epoch)[position])


@lru_cache(EPOCHS_REMEMBERED)
def _order(num_prompts: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Shuffle one epoch. A negative seed is taken modulo 2**64, since numpy allows none."""
    bits = np.random.PCG64([seed % 2**64, epoch])
    return np.random.Generator(bits).permutation(num_prompts).astype(np.int64)
