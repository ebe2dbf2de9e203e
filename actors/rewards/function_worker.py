"""The worker that scores responses with a Python function."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoTokenizer

from actors.errors import RewardError
from actors.imported_functions import import_function
from actors.rewards.reward_errors import not_finite, raise_together
from alignment.data.tokenized import decoded
from alignment.mdp.trajectories import Trajectories

RewardFunction = Callable[[str, str, str], float]
MAX_REWARD = float(np.finfo(np.float32).max)


class RewardFunctionWorker:
    """Calls a function of (prompt, response, expert_response); a RewardSource of actors.messages.

    A prompt for which the function raises, or returns anything but a finite number, has no reward:
    the RewardError names all such prompts of the request.
    """

    def __init__(self, function: str, policy: str) -> None:
        """Import the function.

        Args:
            policy: folder or hub name of the policy, whose tokenizer made the trajectories.
        """
        self._function = load_reward_function(function)
        self._name = function
        self._policy_tokenizer = AutoTokenizer.from_pretrained(policy)

    def score(
        self, trajectories: Trajectories, expert_responses: Sequence[str]
    ) -> NDArray[np.float32]:
        """Return the function's value [trajectory] for each trajectory.

        Args:
            expert_responses: [trajectory] the demonstration of each trajectory's prompt, as text.

        Raises:
            RewardError: if the function has no value for a prompt.
            ValueError: if there is not one expert response per trajectory.
        """
        if len(expert_responses) != len(trajectories):
            raise ValueError(
                f"{len(expert_responses)} expert_responses for {len(trajectories)} trajectories; "
                f"give one per trajectory"
            )
        texts = zip(decoded(self._policy_tokenizer, trajectories), expert_responses, strict=True)
        rewards = np.zeros(len(trajectories), np.float32)
        failures = []
        for row, ((prompt, response), expert_response) in enumerate(texts):
            prompt_id = int(trajectories.prompt_ids[row])
            try:
                rewards[row] = self._reward(prompt_id, (prompt, response, expert_response))
            except RewardError as error:
                failures.append(error)
        raise_together(failures)
        return rewards

    def _reward(self, prompt_id: int, texts: tuple[str, str, str]) -> float:
        try:
            reward = self._function(*texts)
        # An error in the user's function costs the prompt, not the worker: sys.exit too.
        except (Exception, SystemExit) as error:
            raise RewardError(
                f"prompt {prompt_id}: {self._name} raised {type(error).__name__}: {error}",
                [prompt_id],
            ) from error
        return checked_reward(reward, prompt_id)


def checked_reward(reward: object, prompt_id: int) -> float:
    """Return a reward as a float that float32 can hold, or raise RewardError.

    Whatever float() takes is a number (an int, a bool, a Decimal, an array or tensor of one
    element), except text.
    """
    try:
        if isinstance(reward, str | bytes | bytearray):
            raise TypeError("text is no number")
        value: Any = reward.item() if hasattr(reward, "item") else reward
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        message = f"prompt {prompt_id}: the reward is {reward!r}, not a number ({error})"
        raise RewardError(message, [prompt_id]) from error
    if not abs(number) <= MAX_REWARD:  # this way round for nan
        raise not_finite(reward, prompt_id)
    return number


def load_reward_function(path: str) -> RewardFunction:
    """Import a reward function by its path module:name.

    Raises:
        InvalidInputError: if it cannot be imported, or cannot be called with three texts.
    """
    checked: RewardFunction = import_function(
        path,
        "reward function",
        ("prompt", "response", "expert_response"),
        ("", "", ""),
        "a number",
    )
    return checked
