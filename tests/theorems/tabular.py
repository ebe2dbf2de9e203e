"""What several theorems share: random tables, exact gradients, and policies that follow them."""

import torch

from alignment.objectives.behavior_cloning import behavior_cloning
from alignment.objectives.policy_gradient import policy_gradient
from alignment.studies.response_table import tabular_action_logprobs, tabular_response_logprobs
from tests.strategies import TABLE

EXACT = {"atol": 1e-10, "rtol": 1e-10}
"""How far two ways to write the same number may differ, in assert_close."""
NUM = len(TABLE.responses)


def random_logits(seed, *shape, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def random_tables(seed, scale=1.0):
    """Logits of a random expert and of a random policy over TABLE."""
    return random_logits(seed, 2, len(TABLE.prefixes), 3, scale=scale).unbind()


def probabilities(table):
    """Of every response."""
    return tabular_response_logprobs(table, TABLE).exp()


def log_ratios(expert, policy):
    """Of every response: what the optimal discriminator emits."""
    return tabular_response_logprobs(expert, TABLE) - tabular_response_logprobs(policy, TABLE)


def state_visits(table):
    """Probability of every prefix: each response passes a state at most once."""
    passed = probabilities(table)[TABLE.sequence_index]
    return passed.new_zeros(len(TABLE.prefixes)).index_add(0, TABLE.prefix_index, passed)


def action_visits(table):
    """Unnormalized occupancy of every state and action."""
    return state_visits(table)[:, None] * table.softmax(-1)


def gradient(loss, logits):
    logits = logits.detach().requires_grad_()
    return torch.autograd.grad(loss(logits), logits)[0]


def reward_gradient(policy, rewards):
    """Expectation over responses of reward * grad log policy, by the library's objective."""
    chance = probabilities(policy).detach()

    def loss(table):
        logprobs = tabular_action_logprobs(table, TABLE)
        return policy_gradient(
            logprobs,
            logprobs.detach(),
            (chance * rewards.detach())[TABLE.sequence_index],
            TABLE.sequence_index,
            importance="none",
            max_mean_log_ratio=None,
            num_sequences=1,
        ).loss

    return -gradient(loss, policy)


def expected_behavior_cloning(chance, logprobs, sequence_index, reduction="sum_per_sequence"):
    """Expectation over demonstrations: each log-probability weighed by its demonstration's chance.

    The objective is linear in them, so the weighted batch is the expectation.
    """
    return behavior_cloning(
        chance[sequence_index] * logprobs,
        sequence_index,
        reduction=reduction,
        num_sequences=1,
        num_action_tokens=1,
    )


def climb(logits, reward, *, step_size, num_steps):
    """Follow the exact policy gradient of a reward that sees the present log-probabilities.

    Args:
        logits: one policy over single outcomes in each row.
        reward: from log-probabilities to rewards, both [row, outcome].
        step_size: of gradient ascent.
        num_steps: of the same.

    Returns:
        The logits after the last step.
    """
    for _ in range(num_steps):
        logprobs = logits.log_softmax(-1)
        policy, rewards = logprobs.exp(), reward(logprobs)
        baseline = (policy * rewards).sum(-1, keepdim=True)
        logits = logits + step_size * policy * (rewards - baseline)
    return logits


def kl(p, q):
    return (p * (p / q).log()).sum(-1)


def cosine(a, b):
    return torch.cosine_similarity(a.ravel(), b.ravel(), dim=0).item()


def minimum(loss, start):
    """Where a smooth convex loss is smallest, by Newton's method with halved steps.

    A direction in which the loss is constant is left where it started.
    """
    x = start
    for _ in range(100):
        slope = gradient(loss, x)
        if slope.abs().max() < 1e-12:
            return x
        curvature = torch.autograd.functional.hessian(loss, x)
        step = torch.linalg.pinv(curvature, hermitian=True, rtol=1e-9) @ slope
        while loss(x - step) > loss(x) - 0.1 * (slope @ step) + 1e-15:
            step = step / 2.0
        x = x - step
    raise AssertionError(f"no minimum found; the gradient is still {slope.tolist()}")
