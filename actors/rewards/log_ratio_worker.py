"""The worker that scores responses with the log-ratio of two policies."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer

from actors.errors import InvalidInputError
from actors.rewards.model_worker import MAX_TOKENS_PER_BATCH
from actors.rewards.reward_errors import require_finite
from actors.rewards.sources import read_log_ratio
from alignment.mdp.trajectories import Trajectories
from alignment.models.policy import load_policy
from alignment.rewards.log_ratio import log_ratios


class LogRatioWorker:
    """Holds two policies, which are never trained; a RewardSource of actors.messages.

    Up to rounding, a reward does not depend on what else is scored in the same call. The worker
    computes in float32, on the GPU if it sees one.
    """

    def __init__(self, folder: str, policy: str) -> None:
        """Load both policies.

        Args:
            policy: folder or hub name of the policy, whose tokenizer made the trajectories.

        Raises:
            InvalidInputError: if the file cannot be read, or one of the two policies has another
                vocabulary than the policy.
        """
        source = read_log_ratio(folder)
        names = source.numerator, source.denominator
        vocabulary = AutoTokenizer.from_pretrained(policy).get_vocab()
        for name in names:
            if AutoTokenizer.from_pretrained(name).get_vocab() != vocabulary:
                raise InvalidInputError(
                    f"reward model {folder}: {name} has other tokens than the policy {policy}, and "
                    "the log-ratio is computed on the policy's tokens; choose policies with its "
                    "tokenizer"
                )
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        loaded = (load_policy(name).requires_grad_(False).to(device) for name in names)
        self._numerator, self._denominator = loaded
        self._temperature = source.temperature

    def score(
        self, trajectories: Trajectories, expert_responses: Sequence[str]
    ) -> NDArray[np.float32]:
        """Return the log-ratio [trajectory] of the two policies at each response, in nats.

        Raises:
            RewardError: if a reward is not finite.
        """
        del expert_responses
        longest = int(trajectories.lengths.max(initial=0))
        ratios = log_ratios(
            self._numerator,
            self._denominator,
            trajectories,
            temperature=self._temperature,
            max_tokens=max(MAX_TOKENS_PER_BATCH, longest),
        )
        rewards: NDArray[np.float32] = ratios.float().numpy()
        require_finite(rewards, trajectories.prompt_ids)
        return rewards
