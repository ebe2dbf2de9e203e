import torch
from hypothesis import given
from hypothesis import strategies as st

from alignment.advantages import leave_one_out
from alignment.estimators import tabular_response_logprobs
from tests.strategies import TABLE, floats64, policy_tables


def test_hand_computed_groups_of_unequal_size():
    # Group 7: rewards 1, 4, 1. Baselines (4+1)/2, (1+1)/2, (1+4)/2. Group 3: 2 and 5. Group 9: one.
    rewards = torch.tensor([1.0, 2.0, 4.0, 9.0, 5.0, 1.0])
    groups = torch.tensor([7, 3, 7, 9, 3, 7])
    advantages = leave_one_out(rewards, groups)
    torch.testing.assert_close(advantages.values, torch.tensor([-1.5, -3.0, 3.0, 0.0, 3.0, -1.5]))
    assert advantages.is_alone.tolist() == [False, False, False, True, False, False]


@given(groups=st.lists(st.integers(0, 3), min_size=1, max_size=12), data=st.data())
def test_equals_reward_minus_mean_of_the_others(groups, data):
    rewards = data.draw(floats64(len(groups)))
    found = leave_one_out(rewards, torch.tensor(groups))
    for i, group in enumerate(groups):
        others = [rewards[j] for j in range(len(groups)) if groups[j] == group and j != i]
        expected = rewards[i] - sum(others) / len(others) if others else torch.zeros(())
        torch.testing.assert_close(found.values[i], expected.double(), atol=1e-12, rtol=0.0)
        assert found.is_alone[i].item() == (not others)


def test_no_trajectories_have_no_advantages():
    advantages = leave_one_out(torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert len(advantages.values) == 0
    assert len(advantages.is_alone) == 0


def test_a_broken_reward_stays_in_its_group():
    rewards = torch.tensor([torch.nan, 1.0, 2.0, 4.0])
    advantages = leave_one_out(rewards, torch.tensor([0, 0, 1, 1]))
    assert advantages.values[:2].isnan().all()
    assert advantages.values[2:].tolist() == [-2.0, 2.0]


@given(logits=policy_tables(), rewards=floats64(len(TABLE.responses)))
def test_baseline_leaves_the_policy_gradient_unbiased(logits, rewards):
    logits.requires_grad_()
    logprobs = tabular_response_logprobs(logits, TABLE)
    probabilities = logprobs.exp()
    (exact,) = torch.autograd.grad((probabilities * rewards).sum(), logits, retain_graph=True)
    # Every group of two responses, (i, j), with its probability
    num = len(rewards)
    first, second = torch.cartesian_prod(torch.arange(num), torch.arange(num)).T
    groups = torch.arange(num * num).repeat(2)
    members = torch.cat([first, second])
    advantages = leave_one_out(rewards[members], groups).values
    weight = (probabilities[first] * probabilities[second]).detach().repeat(2)
    (expected,) = torch.autograd.grad((weight * advantages * logprobs[members]).sum() / 2, logits)
    torch.testing.assert_close(expected, exact, atol=1e-12, rtol=0.0)
