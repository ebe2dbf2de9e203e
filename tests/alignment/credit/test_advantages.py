import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignment.credit.advantages import (
    MIN_STANDARD_DEVIATION,
    group_mean,
    group_normalized,
    leave_one_out,
    leave_one_out_by_position,
    self_normalized,
)
from tests.strategies import flat_batches, floats64

group_lists = st.lists(st.integers(0, 3), min_size=1, max_size=12)
every_baseline = pytest.mark.parametrize(
    "advantages", [leave_one_out, group_mean, group_normalized]
)

# Group 7: rewards 1, 4, 1. Group 3: 2 and 5. Group 9: 9, alone.
REWARDS = torch.tensor([1.0, 2.0, 4.0, 9.0, 5.0, 1.0])
GROUPS = torch.tensor([7, 3, 7, 9, 3, 7])


def test_hand_computed_groups_of_unequal_size():
    # Baselines (4+1)/2, (1+1)/2, (1+4)/2, then 5 and 2
    found = leave_one_out(REWARDS, GROUPS)
    torch.testing.assert_close(found, torch.tensor([-1.5, -3.0, 3.0, 0.0, 3.0, -1.5]))
    # Baselines 2 and 3.5
    found = group_mean(REWARDS, GROUPS)
    torch.testing.assert_close(found, torch.tensor([-1.0, -1.5, 2.0, 0.0, 1.5, -1.0]))
    # Deviations sqrt((1 + 1 + 4) / 2) and sqrt(2 * 1.5^2)
    found = group_normalized(REWARDS, GROUPS)
    expected = torch.tensor([-1 / 3**0.5, -(0.5**0.5), 2 / 3**0.5, 0.0, 0.5**0.5, -1 / 3**0.5])
    torch.testing.assert_close(found, expected)


@given(groups=group_lists, data=st.data())
def test_equal_their_definitions_group_by_group(groups, data):
    rewards = data.draw(floats64(len(groups)))
    ids = torch.tensor(groups)
    one_out, mean, normalized = (
        function(rewards, ids) for function in (leave_one_out, group_mean, group_normalized)
    )
    for i, group in enumerate(groups):
        members = rewards[ids == group]
        others = rewards[(ids == group) & (torch.arange(len(groups)) != i)]
        expected = torch.zeros(3, dtype=torch.float64)
        if len(members) > 1:
            centered = rewards[i] - members.mean()
            deviation = members.std().clamp(min=MIN_STANDARD_DEVIATION)
            expected = torch.stack([rewards[i] - others.mean(), centered, centered / deviation])
        found = torch.stack([one_out[i], mean[i], normalized[i]])
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


@every_baseline
def test_no_trajectories_have_no_advantages(advantages):
    found = advantages(torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert len(found) == 0


@every_baseline
def test_a_broken_reward_stays_in_its_group(advantages):
    rewards = torch.tensor([torch.nan, 1.0, 2.0, 4.0])
    found = advantages(rewards, torch.tensor([0, 0, 1, 1]))
    assert found[:2].isnan().all()
    assert found[2].item() == -found[3].item() != 0.0


def test_rewards_that_differ_by_rounding_are_not_blown_up():
    found = group_normalized(torch.tensor([1.0, 1.0, 1.0 + 1e-6]), torch.zeros(3, dtype=torch.long))
    assert found.abs().max().item() < 0.02
    equal = group_normalized(torch.ones(3), torch.zeros(3, dtype=torch.long))
    assert equal.tolist() == [0.0, 0.0, 0.0]


def test_hand_computed_advantages_by_position():
    # Group 4: returns 3 1 | 5 | 2 2 6, against means of the others (5+2)/2 (0+2)/2, (3+2)/2,
    # (3+5)/2 (1+0)/2 (0+0)/2. Group 1: one response.
    returns = torch.tensor([3.0, 1.0, 5.0, 7.0, 8.0, 2.0, 2.0, 6.0], requires_grad=True)
    index = torch.tensor([0, 0, 1, 2, 2, 3, 3, 3])
    found = leave_one_out_by_position(returns, index, torch.tensor([4, 4, 1, 4]))
    expected = torch.tensor([-0.5, 0.0, 2.5, 0.0, 0.0, -2.0, 1.5, 6.0])
    torch.testing.assert_close(found, expected)


@given(batch=flat_batches(), data=st.data())
def test_by_position_equals_a_loop_over_the_other_responses(batch, data):
    index, returns, _ = batch
    num = int(index.max()) + 1
    ids = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=num, max_size=num)))
    found = leave_one_out_by_position(returns, index, ids)
    responses = [returns[index == i].tolist() for i in range(num)]
    expected = []
    for i, response in enumerate(responses):
        others = [responses[j] for j in range(num) if j != i and ids[j] == ids[i]]
        for t, own in enumerate(response):
            baseline = [other[t] if t < len(other) else 0.0 for other in others]
            expected.append(own - sum(baseline) / len(others) if others else 0.0)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_a_broken_return_stays_in_its_group_and_position():
    returns = torch.tensor([torch.nan, 1.0, 2.0, 4.0, 6.0])
    index = torch.tensor([0, 0, 1, 2, 3])
    found = leave_one_out_by_position(returns, index, torch.tensor([0, 0, 1, 1]))
    assert found.isnan().tolist() == [True, False, True, False, False]
    assert found[[1, 3, 4]].tolist() == [1.0, -2.0, 2.0]
    empty = torch.zeros(0)
    nothing = leave_one_out_by_position(empty, empty.long(), empty.long())
    assert len(nothing) == 0


def test_hand_computed_self_normalized_weights():
    # Group 0: odds 1 : 3, weights 1/4 and 3/4. Group 5: 1 : 1 : 2. Group 2: alone.
    odds = torch.tensor([1.0, 1.0, 3.0, 1.0, 2.0, 7.0])
    groups = torch.tensor([0, 5, 0, 5, 5, 2])
    found = self_normalized(odds.log(), groups)
    torch.testing.assert_close(found.values, torch.tensor([-0.5, -0.25, 0.5, -0.25, 0.5, 0.0]))
    # 1 / (1/16 + 9/16), alone 1, 1 / (1/16 + 1/16 + 1/4), in the order of the ids
    torch.testing.assert_close(found.effective_sizes, torch.tensor([1.6, 1.0, 16 / 6]))


@given(groups=group_lists, shift=st.floats(-500, 500), data=st.data())
def test_self_normalized_advantages_are_bounded_and_ignore_a_constant(groups, shift, data):
    logits = data.draw(floats64(len(groups), -300.0, 300.0))
    ids = torch.tensor(groups)
    found = self_normalized(logits, ids)
    shifted = self_normalized(logits + shift * ids, ids)
    torch.testing.assert_close(shifted.values, found.values, atol=1e-9, rtol=0.0)
    for row, group in enumerate(sorted(set(groups))):
        members = found.values[ids == group]
        assert -1.0 - 1e-12 <= members.min() <= members.max() <= len(members) - 1.0 + 1e-12
        assert members.sum().item() == pytest.approx(0.0, abs=1e-10)
        assert 1.0 - 1e-12 <= found.effective_sizes[row] <= len(members) + 1e-12


def test_a_logit_far_above_the_others_takes_all_the_weight():
    found = self_normalized(torch.tensor([500.0, -500.0, 0.0]), torch.zeros(3, dtype=torch.long))
    assert found.values.tolist() == [2.0, -1.0, -1.0]
    assert found.effective_sizes.tolist() == [1.0]
