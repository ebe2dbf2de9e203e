"""Is a reward a number, and whose is none? What both kinds of reward sources share."""

import math
from collections.abc import Iterable

import numpy as np

from actors.errors import RewardError


def checked_reward(reward: object, prompt_id: int) -> float:
    """Return the reward as a number.

    Returns:
        The same, as a float.

    Raises:
        RewardError: if it is no number or not finite; True and False are no numbers.
    """
    if isinstance(reward, (int, float, np.floating, np.integer)) and not isinstance(reward, bool):
        number = float(reward)
        if math.isfinite(number):
            return number
    raise RewardError(*not_finite(reward, prompt_id))


def not_finite(reward: object, prompt_id: int) -> tuple[str, list[int]]:
    """Return what a RewardError says of a prompt whose reward is no finite number."""
    return f"prompt {prompt_id}: the reward is {reward!r}, not a finite number", [prompt_id]


def raise_together(failures: Iterable[RewardError]) -> None:
    """Raise the first of these errors, if there are any, naming the prompts of all."""
    collected = list(failures)
    if collected:
        prompt_ids = [prompt_id for error in collected for prompt_id in error.prompt_ids]
        raise RewardError(str(collected[0]), dict.fromkeys(prompt_ids)) from collected[0]
