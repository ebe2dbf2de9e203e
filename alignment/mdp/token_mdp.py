"""Text generation as a Markov decision process, and as a gymnasium environment.

State: the prompt and the response so far, (x, a_1 .. a_t-1). Action: the next token. Transition:
append the token, which is deterministic and known. The process ends with an end token, with a
response of max_response_tokens, or with a full context window. There is no discount, and the reward
comes with the last action. A state that fills the context window is terminal, so a state
is the whole history, without truncation: every state is reached by one path only, and the process
is a tree.

A policy gives a trajectory the probability prod_t pi(a_t|s_t). Since the dynamics are known,
alignment from demonstrations can be on-policy without queries to the expert.

Importing this module registers the environment ENVIRONMENT_ID.

References:
    Sun 2024, arXiv:2403.12017; Sun & van der Schaar 2024, arXiv:2405.15624, section 2.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, SupportsInt

import gymnasium
import numpy as np
from numpy.typing import NDArray

from alignment.mdp.trajectories import FinishReason

ENVIRONMENT_ID = "irlign/TokenMDP-v0"

Reward = Callable[[tuple[int, ...], tuple[int, ...]], float]
"""Function of a prompt and a finished response, its end token included if it has one."""


class State(NamedTuple):
    """Input of the policy when it chooses a token: the prompt and the response so far."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]


class TokenMDP(NamedTuple):
    """The decision process without its reward."""

    num_tokens: int
    """Size of the vocabulary; actions are 0 to num_tokens - 1."""
    end_token: int
    """Token that ends the response."""
    max_response_tokens: int
    context_tokens: int
    """Maximum length of prompt and response together."""

    def start(self, prompt: Sequence[int]) -> State:
        """Begin with an empty response.

        Args:
            prompt: token ids, at least one.

        Returns:
            The initial state.

        Raises:
            ValueError: if the prompt is empty, fills the context, or has a token outside the
                vocabulary.
        """
        if not 0 < len(prompt) < self.context_tokens:
            raise ValueError(
                f"a prompt must have 1 to {self.context_tokens - 1} tokens, so that a response "
                f"fits within context_tokens = {self.context_tokens}, got {len(prompt)}"
            )
        for token in prompt:
            self._require_token(token)
        return State(tuple(int(token) for token in prompt), ())

    def transition(self, state: State, action: int) -> State:
        """Append one token.

        Args:
            state: one that is not terminal.
            action: the token.

        Returns:
            The next state.

        Raises:
            ValueError: if the state is terminal or the action is outside the vocabulary.
        """
        reason = self.finish_reason(state)
        if reason is not None:
            raise ValueError(f"the response has ended ({reason.name}); start a new one")
        self._require_token(action)
        return State(state.prompt, (*state.response, int(action)))

    def finish_reason(self, state: State) -> FinishReason | None:
        """Return the reason why a state is terminal; None if it is not."""
        prompt, response = state
        if response and response[-1] == self.end_token:
            return FinishReason.STOP
        is_full = len(prompt) + len(response) >= self.context_tokens
        if is_full or len(response) >= self.max_response_tokens:
            return FinishReason.LENGTH
        return None

    def _require_token(self, token: int) -> None:
        if not 0 <= token < self.num_tokens:
            raise ValueError(f"token {token} is not one of 0 to {self.num_tokens - 1}")


class TokenEnvironment(gymnasium.Env[NDArray[np.float32], np.int64]):
    """The token MDP for a small vocabulary and a fixed set of prompts.

    An observation is the one-hot code of the prompt's and then of the response's token slots, with
    one more code for an empty slot. A response that hits a limit is terminated, not truncated: the
    limit belongs to the process, and nothing would come after it.

    Example:
        import gymnasium
        import alignment.mdp.token_mdp

        environment = gymnasium.make(
            alignment.mdp.token_mdp.ENVIRONMENT_ID,
            mdp=TokenMDP(num_tokens=4, end_token=0, max_response_tokens=3, context_tokens=8),
            prompts=[(1, 2), (3,)],
            reward=lambda prompt, response: float(response[:-1] == prompt),
        )
    """

    def __init__(self, *, mdp: TokenMDP, prompts: Sequence[Sequence[int]], reward: Reward) -> None:
        """Describe the task.

        Args:
            prompts: reset draws one of them uniformly.
            reward: called once an episode, with the whole response.

        Raises:
            ValueError: if there is no prompt, or one that the process refuses.
        """
        if not prompts:
            raise ValueError("the environment needs at least one prompt")
        self._mdp = mdp
        self._reward = reward
        self._starts = [mdp.start(prompt) for prompt in prompts]
        self._state = self._starts[0]
        self._prompt_slots = max(len(prompt) for prompt in prompts)
        self._num_slots = self._prompt_slots + mdp.max_response_tokens
        shape = (self._num_slots * (mdp.num_tokens + 1),)
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, shape, np.float32)
        self.action_space = gymnasium.spaces.Discrete(mdp.num_tokens)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin a new response to a random prompt.

        Args:
            seed: makes the prompts that follow repeatable.
            options: none are known.

        Returns:
            The first observation, and no information.
        """
        super().reset(seed=seed, options=options)
        self._state = self._starts[int(self.np_random.integers(len(self._starts)))]
        return self._observation(), {}

    def step(
        self, action: SupportsInt
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Append one token.

        Args:
            action: the token.

        Returns:
            Observation, reward (0 before the last action), whether the response has ended, False,
            and then the finish_reason's name.
        """
        self._state = self._mdp.transition(self._state, int(action))
        reason = self._mdp.finish_reason(self._state)
        if reason is None:
            return self._observation(), 0.0, False, False, {}
        reward = float(self._reward(*self._state))
        return self._observation(), reward, True, False, {"finish_reason": reason.name}

    def _observation(self) -> NDArray[np.float32]:
        prompt, response = self._state
        empty = self._mdp.num_tokens
        codes = np.full(self._num_slots, empty)
        codes[: len(prompt)] = prompt
        codes[self._prompt_slots : self._prompt_slots + len(response)] = response
        observation: NDArray[np.float32] = np.eye(empty + 1, dtype=np.float32)[codes].ravel()
        return observation


gymnasium.register(id=ENVIRONMENT_ID, entry_point="alignment.mdp.token_mdp:TokenEnvironment")
