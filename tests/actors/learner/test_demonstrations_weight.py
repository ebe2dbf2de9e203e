"""The likelihood of demonstrations beside the rollouts of a step of stage 2."""

import numpy as np
import pytest
import torch

from actors.config.objective import ObjectiveConfig, ReferenceConfig
from actors.learner.learner import Learner
from actors.messages import AuxiliaryBatch
from alignment.mdp.ranked_responses import NO_COMPARISONS
from alignment.mdp.trajectories import EMPTY
from tests.actors.learner.test_learner import CPU, model_folder, on_policy, settings_for, sft

__all__ = ["model_folder"]  # a fixture
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


class GradientsOf(Learner):
    """Keeps the gradient of its step."""

    def _apply_gradients(self, task, sums):
        self.gradient = {n: p.grad.clone() for n, p in self.policy.named_parameters()}
        return super()._apply_gradients(task, sums)


def gradient_of(folder, task, weight=0.0):
    objective = ObjectiveConfig(
        demonstrations_weight=weight, reference=ReferenceConfig(coefficient=0.0)
    )
    settings = settings_for(folder, max_tokens=40)._replace(objective=objective)
    learner = GradientsOf(settings, device=CPU, rank=0, world_size=1)
    metrics = learner.perform(task)
    return learner.gradient, metrics


def demonstrations_of(task):
    return AuxiliaryBatch(
        comparisons=NO_COMPARISONS,
        num_comparisons=0,
        num_compared=0,
        demonstrations=task.trajectories,
        num_demonstrations=task.num_sequences,
        num_demonstration_tokens=task.num_action_tokens,
        mismatched=EMPTY,
        num_mismatched=0,
    )


def test_the_gradient_is_the_sum_of_both(model_folder):
    cloning = sft(0)
    of_rollouts, alone = gradient_of(model_folder, on_policy(0))
    of_demonstrations, cloned = gradient_of(model_folder, cloning)
    both = on_policy(0, auxiliary=demonstrations_of(cloning))
    found, metrics = gradient_of(model_folder, both, weight=0.7)
    for name, value in found.items():
        expected = of_rollouts[name] + 0.7 * of_demonstrations[name]
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)
    expected = alone["learner/loss"] + 0.7 * cloned["learner/loss"]
    assert metrics["learner/loss"] == pytest.approx(expected, rel=1e-5)
    nll = "learner/nll_per_token"
    assert metrics[nll] == pytest.approx(cloned[nll], rel=1e-5)
    assert np.isfinite(metrics["learner/reward_mean"])
