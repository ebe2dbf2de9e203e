"""Errors that name every prompt of a request whose reward cannot be computed."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from actors.errors import RewardError


def not_finite(reward: object, prompt_id: int) -> RewardError:
    """Return the error for a reward that is not a finite number."""
    message = f"prompt {prompt_id}: the reward is {reward!r}, not a finite number"
    return RewardError(message, [prompt_id])


def require_finite(rewards: NDArray[np.float32], prompt_ids: NDArray[np.int64]) -> None:
    """Raise a RewardError if one of the rewards [trajectory] is nan or infinite."""
    raise_together(
        not_finite(rewards[row].item(), int(prompt_ids[row]))
        for row in np.flatnonzero(~np.isfinite(rewards))
    )


def raise_together(failures: Iterable[RewardError]) -> None:
    """Raise the first of these errors, if there are any, naming the prompts of all."""
    collected = list(failures)
    if collected:
        prompt_ids = [prompt_id for error in collected for prompt_id in error.prompt_ids]
        raise RewardError(str(collected[0]), dict.fromkeys(prompt_ids)) from collected[0]
