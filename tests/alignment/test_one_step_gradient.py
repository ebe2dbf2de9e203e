"""One step of on-policy imitation descends the divergence that it names, exactly.

The expectation over sampled groups is taken by enumeration: every pair of responses is a group of
two, weighed by its probability, and all of them go through the real code in one call. With the
optimal discriminator's logits the gradient must be that of the exact divergence, at scale 1.
"""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from alignment.advantages import leave_one_out
from alignment.divergences import DIVERGENCES, clip_logits, divergence
from alignment.estimators import tabular_action_logprobs, tabular_response_logprobs
from alignment.importance import TRUNCATION, staleness_correction
from alignment.objectives.policy_gradient import policy_gradient
from tests.strategies import TABLE, policy_tables

NUM = len(TABLE.responses)
PAIRS = torch.cartesian_prod(torch.arange(NUM), torch.arange(NUM))
MEMBERS = PAIRS.reshape(-1)  # the responses of all groups, one group behind another
GROUP_IDS = torch.arange(len(PAIRS)).repeat_interleave(2)
ROWS = [torch.nonzero(TABLE.sequence_index == i).ravel() for i in range(NUM)]
ACTIONS = torch.cat([ROWS[i] for i in MEMBERS.tolist()])
LENGTHS = torch.tensor([len(ROWS[i]) for i in MEMBERS.tolist()])
SEQUENCE_INDEX = torch.arange(len(MEMBERS)).repeat_interleave(LENGTHS)


def expected_gradient(logits, behavior, rewards, importance):
    """Expectation over groups of two, sampled by the behavior policy, of one step's gradient."""
    policy_logprobs = tabular_action_logprobs(logits, TABLE)[ACTIONS]
    behavior_logprobs = tabular_action_logprobs(behavior, TABLE)[ACTIONS]
    probability = tabular_response_logprobs(behavior, TABLE).exp().detach()
    group_probability = probability[PAIRS].prod(1)
    advantages = leave_one_out(rewards[MEMBERS], GROUP_IDS).values
    out = policy_gradient(
        policy_logprobs,
        behavior_logprobs,
        advantages * group_probability[GROUP_IDS],
        SEQUENCE_INDEX,
        importance=importance,
        num_sequences=2,  # each group is a step of two sequences
    )
    return torch.autograd.grad(out.loss, logits)[0]


def exact_gradient(name, expert, logits):
    p = tabular_response_logprobs(expert, TABLE).exp()
    q = tabular_response_logprobs(logits, TABLE).exp()
    return torch.autograd.grad(divergence(name).value(p, q), logits)[0]


def optimal_logits(expert, policy):
    logits = tabular_response_logprobs(expert, TABLE) - tabular_response_logprobs(policy, TABLE)
    return logits.detach()


@pytest.mark.parametrize("name", list(DIVERGENCES))
@given(
    expert=policy_tables(),
    policy=policy_tables(),
    importance=st.sampled_from(["none", "token", "sequence"]),
)
def test_step_is_the_gradient_of_the_divergence(name, expert, policy, importance):
    policy.requires_grad_()
    rewards = divergence(name).reward(optimal_logits(expert, policy))
    step = expected_gradient(policy, policy.detach(), rewards, importance)
    exact = exact_gradient(name, expert, policy)
    torch.testing.assert_close(step, exact, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", list(DIVERGENCES))
@given(expert=policy_tables(0.5), policy=policy_tables(0.1), snapshot=policy_tables(0.1))
@settings(max_examples=30)
def test_stale_samples_and_a_stale_discriminator_do_not_matter(name, expert, policy, snapshot):
    policy.requires_grad_()
    corrected = (
        optimal_logits(expert, snapshot)
        + staleness_correction(
            tabular_action_logprobs(policy, TABLE),
            tabular_action_logprobs(snapshot, TABLE),
            TABLE.sequence_index,
            NUM,
        ).correction
    )
    logits, was_clipped = clip_logits(corrected, divergence(name))
    log_ratios = -optimal_logits(policy, snapshot)
    assume(not was_clipped.any() and log_ratios.abs().exp().max() < TRUNCATION)
    rewards = divergence(name).reward(logits)
    step = expected_gradient(policy, snapshot, rewards, "sequence")
    exact = exact_gradient(name, expert, policy)
    torch.testing.assert_close(step, exact, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", list(DIVERGENCES))
@given(policy=policy_tables())
@settings(max_examples=20)
def test_the_expert_itself_stays_where_it_is(name, policy):
    policy.requires_grad_()
    rewards = divergence(name).reward(optimal_logits(policy, policy))
    step = expected_gradient(policy, policy.detach(), rewards, "token")
    assert step.abs().max().item() < 1e-14
