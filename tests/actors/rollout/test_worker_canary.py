"""Which differences from the learner's canary a rollout worker accepts; the engine is a fake."""

import pytest
import torch

from actors.config.rollout import RolloutConfig
from actors.errors import WeightMismatchError
from actors.messages import Canary
from actors.rollout.worker import RolloutWorker
from actors.weights.store import WeightStore
from alignment.mdp.trajectories import PolicyVersion

TOKENS, LEARNER = (1, 5, 7), (-1.0, -2.0)


class Engine:
    """Takes any weights, and differs from the learner by as much on every token."""

    policy_version = None

    def __init__(self, difference):
        self.difference, self.rejected = difference, []

    async def update_weights(self, tensors, version):
        self.policy_version = version

    async def prompt_logprobs(self, token_ids):
        assert tuple(token_ids) == TOKENS
        return [logprob + self.difference for logprob in LEARNER]

    async def reject_weights(self, reason):
        self.rejected.append(reason)


@pytest.mark.parametrize(
    ("dtype", "rounding", "difference", "is_accepted"),
    [
        ("bfloat16", 0.05, 0.19, True),
        ("bfloat16", 0.05, 0.21, False),
        ("bfloat16", 0.178, 0.255, True),  # a text that is hard for bfloat16, healthy weights
        ("bfloat16", 0.178, 0.54, False),
        ("float32", 0.0, 0.002, False),
        ("bfloat16", 0.05, float("nan"), False),
    ],
)
async def test_a_difference_is_held_against_the_rounding_of_the_text(
    tmp_path, dtype, rounding, difference, is_accepted
):
    store, engine = WeightStore(tmp_path), Engine(difference)
    worker = RolloutWorker(RolloutConfig(dtype=dtype), store, lambda: engine)
    canary = Canary(TOKENS, LEARNER, rounding)
    published = store.publish(PolicyVersion(0, 1), {"weight": torch.zeros(2)}, canary)
    if is_accepted:
        assert await worker.sync_weights(published) == PolicyVersion(0, 1)
        assert engine.rejected == []
    else:
        with pytest.raises(WeightMismatchError, match="failed their canary"):
            await worker.sync_weights(published)
        assert len(engine.rejected) == 1
