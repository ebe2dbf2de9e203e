"""A reward source that scores token ids instead of texts, so it needs no tokenizer."""

import numpy as np

from actors.errors import RewardError


class TokenRewardSource:
    """The share of one token in the response; fails on the given prompts."""

    def __init__(self, token, fails_on=()):
        self.token = token
        self.fails_on = set(fails_on)
        self.expert_responses = []

    def score(self, trajectories, expert_responses):
        self.expert_responses += expert_responses
        for prompt_id in trajectories.prompt_ids.tolist():
            if prompt_id in self.fails_on:
                raise RewardError(f"prompt {prompt_id}: fails on purpose")
        rewards = [
            float(np.mean(trajectories.response(row) == self.token))
            for row in range(len(trajectories))
        ]
        return np.asarray(rewards, np.float32)
