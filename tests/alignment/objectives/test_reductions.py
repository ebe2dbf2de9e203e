"""Objectives that are a well-known one by another name, each against its formula as published."""

import torch
from hypothesis import given
from torch.nn.functional import cross_entropy

from alignment.credit.advantages import group_normalized
from alignment.credit.reference_kl import k3_loss
from alignment.objectives.behavior_cloning import behavior_cloning
from alignment.objectives.policy_gradient import CLIP_RANGE, policy_gradient
from tests.strategies import floats64

EXACT = {"atol": 1e-12, "rtol": 1e-12}
NUM_RESPONSES, NUM_TOKENS = 4, 3
KL_WEIGHT = 0.04


def grpo(policy, behavior, reference, rewards):
    """Equation 3 of arXiv:2402.03300 for one group of responses [response, token], as a loss."""
    advantages = ((rewards - rewards.mean()) / rewards.std())[:, None]
    ratios = (policy - behavior).exp()
    clipped = ratios.clamp(1.0 - CLIP_RANGE, 1.0 + CLIP_RANGE)
    surrogate = torch.minimum(ratios * advantages, clipped * advantages)
    kl = (reference - policy).exp() - (reference - policy) - 1.0
    return -(surrogate - KL_WEIGHT * kl).mean(1).mean()


@given(numbers=floats64(3 * NUM_RESPONSES * NUM_TOKENS, -1.5, -0.1))
def test_clipped_group_normalized_policy_gradient_with_k3_is_grpo(numbers):
    # GRPO divides by each response's length; with all lengths equal that is one factor
    policy, behavior, reference = numbers.reshape(3, NUM_RESPONSES, NUM_TOKENS)
    policy = policy.clone().requires_grad_()
    rewards = torch.tensor([0.3, -1.0, 2.0, 0.4], dtype=torch.float64)
    index = torch.arange(NUM_RESPONSES).repeat_interleave(NUM_TOKENS)
    advantages = group_normalized(rewards, torch.zeros(NUM_RESPONSES, dtype=torch.int64))
    out = policy_gradient(
        policy.ravel(),
        behavior.ravel(),
        advantages[index],
        index,
        importance="clip",
        max_mean_log_ratio=None,
        num_sequences=NUM_RESPONSES,
    )
    penalty = k3_loss(policy.ravel(), reference.ravel(), num_sequences=NUM_RESPONSES)
    found = (out.loss + KL_WEIGHT * penalty) / NUM_TOKENS
    published = grpo(policy, behavior, reference, rewards)
    torch.testing.assert_close(found, published, **EXACT)
    slopes = [torch.autograd.grad(loss, policy)[0] for loss in (found, published)]
    torch.testing.assert_close(*slopes, **EXACT)


@given(numbers=floats64(2 * 5 * 7))
def test_behavior_cloning_by_token_mean_is_supervised_fine_tuning(numbers):
    # Two rows of five states over seven tokens; what is no response has the label -100
    logits = numbers.reshape(2, 5, 7).requires_grad_()
    labels = torch.tensor([[-100, -100, 3, 0, 6], [-100, 1, 2, -100, -100]])
    published = cross_entropy(logits.reshape(-1, 7), labels.ravel(), ignore_index=-100)
    is_action = labels != -100
    logprobs = logits.log_softmax(-1)[is_action, labels[is_action]]
    found = behavior_cloning(
        logprobs,
        torch.tensor([0, 0, 0, 1, 1]),
        reduction="token_mean",
        num_sequences=2,
        num_action_tokens=5,
    ).loss
    torch.testing.assert_close(found, published, **EXACT)
    slopes = [torch.autograd.grad(loss, logits)[0] for loss in (found, published)]
    torch.testing.assert_close(*slopes, **EXACT)
