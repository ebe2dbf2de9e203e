"""The worker that scores responses with a Python function."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoTokenizer

from actors.errors import InvalidInputError, RewardError
from actors.rewards.reward_errors import checked_reward, raise_together
from alignment.data.tokenized import decoded
from alignment.mdp.trajectories import Trajectories

RewardFunction = Callable[[str, str, str], float]


class RewardFunctionWorker:
    """Calls a function of (prompt, response, expert_response), named by its import path."""

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
        """Return one reward a trajectory.

        Args:
            expert_responses: the demonstration of each trajectory's prompt, as text.

        Returns:
            What the function returned for each.

        Raises:
            RewardError: if the function raises, or returns anything but a finite number.
            ValueError: if there is not one expert response a trajectory.
        """
        if len(expert_responses) != len(trajectories):
            raise ValueError(
                f"{len(expert_responses)} expert_responses for {len(trajectories)} trajectories; "
                f"give one a trajectory"
            )
        texts = decoded(self._policy_tokenizer, trajectories)
        rewards = np.zeros(len(trajectories), np.float32)
        failures = []
        for index, ((prompt, response), expert_response) in enumerate(
            zip(texts, expert_responses, strict=True)
        ):
            prompt_id = int(trajectories.prompt_ids[index])
            try:
                rewards[index] = self._reward(prompt_id, (prompt, response, expert_response))
            except RewardError as error:
                failures.append(error)
        raise_together(failures)
        return rewards

    def _reward(self, prompt_id: int, texts: tuple[str, str, str]) -> float:
        try:
            reward = self._function(*texts)
        except Exception as error:  # whatever the user's function raises costs the prompt
            raise RewardError(
                f"prompt {prompt_id}: {self._name} raised {type(error).__name__}: {error}",
                [prompt_id],
            ) from error
        return checked_reward(reward, prompt_id)


def load_reward_function(path: str) -> RewardFunction:
    """Import a reward function.

    Returns:
        The function.

    Raises:
        InvalidInputError: if there is no such function.
    """
    module_name, _, name = path.partition(":")
    try:
        function: Any = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidInputError(
            f"reward function {path!r} cannot be imported: {error}; write it as module:name, and "
            f"put the module where Python finds it"
        ) from error
    if not callable(function):
        raise InvalidInputError(f"reward function {path!r} is a {type(function).__name__}")
    checked: RewardFunction = function
    return checked
