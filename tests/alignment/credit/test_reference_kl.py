import math

import pytest
import torch
from hypothesis import given

from alignment.credit.reference_kl import k1_penalty, k2_loss, k3_loss
from alignment.mdp.segments import sequence_sums
from alignment.studies.response_table import tabular_action_logprobs, tabular_response_logprobs
from tests.strategies import TABLE, distributions, floats64, policy_tables

# Log-ratios policy - reference of log 2, -log 2 and log 4; sequences {0, 1} and {2}.
POLICY = torch.tensor([math.log(2.0), 0.0, 0.0])
REFERENCE = torch.tensor([0.0, math.log(2.0), -math.log(4.0)])
INDEX = torch.tensor([0, 0, 1])


def test_hand_computed_values():
    torch.testing.assert_close(
        k1_penalty(POLICY, REFERENCE, INDEX, 2), torch.tensor([0.0, math.log(4.0)])
    )
    # 1/2 (log^2 2 + log^2 2 + 4 log^2 2) / 2
    loss = k2_loss(POLICY, REFERENCE, num_sequences=2)
    assert loss.item() == pytest.approx(1.5 * math.log(2.0) ** 2)
    # rho = 1/2, 2, 1/4: (1/2 - 1 + log 2) + (2 - 1 - log 2) + (1/4 - 1 + log 4) = log 4 - 1/4
    loss = k3_loss(POLICY, REFERENCE, num_sequences=2)
    assert loss.item() == pytest.approx((math.log(4.0) - 0.25) / 2)


@given(policy=policy_tables(), reference=policy_tables())
def test_k1_in_the_reward_is_the_exact_gradient(policy, reference):
    policy.requires_grad_()
    logprobs = tabular_response_logprobs(policy, TABLE)
    target = tabular_response_logprobs(reference, TABLE)
    exact_value = (logprobs.exp() * (logprobs - target)).sum()
    (exact,) = torch.autograd.grad(exact_value, policy, retain_graph=True)
    penalty = k1_penalty(
        tabular_action_logprobs(policy, TABLE),
        tabular_action_logprobs(reference, TABLE),
        TABLE.sequence_index,
        len(TABLE.responses),
    )
    assert not penalty.requires_grad
    probability = logprobs.exp().detach()
    torch.testing.assert_close((probability * penalty).sum(), exact_value.detach())
    (expected,) = torch.autograd.grad((probability * penalty * logprobs).sum(), policy)
    torch.testing.assert_close(expected, exact, atol=1e-12, rtol=0.0)


def _expected_loss(loss, policy, reference):
    """Expectation of a loss over all responses, each weighed by its constant probability."""
    probability = tabular_response_logprobs(policy, TABLE).exp().detach()
    logprobs = tabular_action_logprobs(policy, TABLE)
    target = tabular_action_logprobs(reference, TABLE)
    total = 0.0
    for response in range(len(TABLE.responses)):
        rows = TABLE.sequence_index == response
        total += probability[response] * loss(logprobs[rows], target[rows], num_sequences=1)
    return total


def _statewise_kl(first, second, visits):
    """Sum over states of KL(first, second) there, times how often the state is visited."""
    p, q = first.log_softmax(-1), second.log_softmax(-1)
    return (visits * (p.exp() * (p - q)).sum(-1)).sum()


def _visits(policy):
    """How often each state is visited: the sum of the probabilities of what passes through it."""
    probability = tabular_response_logprobs(policy, TABLE).exp().detach()
    actions = probability[TABLE.sequence_index]
    return sequence_sums(actions, TABLE.prefix_index, len(TABLE.prefixes))


@given(policy=policy_tables(), reference=policy_tables())
def test_k2_and_k3_losses_have_the_gradients_they_claim(policy, reference):
    policy.requires_grad_()
    visits = _visits(policy)
    (k2,) = torch.autograd.grad(_expected_loss(k2_loss, policy, reference), policy)
    (reverse,) = torch.autograd.grad(_statewise_kl(policy, reference, visits), policy)
    torch.testing.assert_close(k2, reverse, atol=1e-12, rtol=0.0)
    (k3,) = torch.autograd.grad(_expected_loss(k3_loss, policy, reference), policy)
    (forward,) = torch.autograd.grad(_statewise_kl(reference, policy, visits), policy)
    torch.testing.assert_close(k3, forward, atol=1e-12, rtol=0.0)


@given(policy=policy_tables(), reference=policy_tables())
def test_k3_is_unbiased_as_a_value(policy, reference):
    logprobs = tabular_response_logprobs(policy, TABLE)
    exact = (logprobs.exp() * (logprobs - tabular_response_logprobs(reference, TABLE))).sum()
    torch.testing.assert_close(
        _expected_loss(k3_loss, policy, reference), exact, atol=1e-12, rtol=0.0
    )


@given(reference=distributions(4), logits=floats64(4))
def test_for_single_tokens_k2_is_the_exact_gradient_too(reference, logits):
    logits.requires_grad_()
    logprobs = logits.log_softmax(0)
    exact_value = (logprobs.exp() * (logprobs - reference.log())).sum()
    (exact,) = torch.autograd.grad(exact_value, logits, retain_graph=True)
    weight = logprobs.exp().detach()
    losses = [
        weight[i] * k2_loss(logprobs[i : i + 1], reference.log()[i : i + 1], num_sequences=1)
        for i in range(4)
    ]
    (expected,) = torch.autograd.grad(sum(losses), logits)
    torch.testing.assert_close(expected, exact, atol=1e-12, rtol=0.0)


@pytest.mark.parametrize("loss", [k2_loss, k3_loss])
def test_the_reference_gets_no_gradient_and_an_empty_step_is_an_error(loss):
    policy = POLICY.clone().requires_grad_()
    reference = REFERENCE.clone().requires_grad_()
    loss(policy, reference, num_sequences=2).backward()
    assert reference.grad is None
    with pytest.raises(ValueError, match="num_sequences must be positive, got 0"):
        loss(policy, reference, num_sequences=0)
