"""A reward source that needs no tokenizer: it looks at tokens in place of texts."""

import numpy as np

from actors.errors import RewardError


class TokenRewardSource:
    """Rewards the share of a token in the response; fails on the prompts that it is told to."""

    def __init__(self, token, fails_on=()):
        self.token = token
        self.fails_on = set(fails_on)
        self.expert_responses = []

    def score(self, trajectories, expert_responses):
        self.expert_responses += expert_responses
        for prompt_id in trajectories.prompt_ids.tolist():
            if prompt_id in self.fails_on:
                raise RewardError(f"prompt {prompt_id}: told to fail")
        rewards = [
            float(np.mean(trajectories.response(row) == self.token))
            for row in range(len(trajectories))
        ]
        return np.asarray(rewards, np.float32)
