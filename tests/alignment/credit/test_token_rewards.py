import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from alignment.credit.token_rewards import increment_rewards, occupancy_rewards, rewards_to_go
from alignment.mdp.segments import action_positions, prefix_sums
from tests.strategies import flat_batches, floats64

# Three responses, of 2, 1 and 3 actions
INDEX = torch.tensor([0, 0, 1, 2, 2, 2])
LOGITS = torch.tensor([2.0, 4.0, 3.0, 0.0, 1.0, 8.0]).log()


def test_hand_computed_rewards_of_prefixes():
    # r = e^h, so r(0) = 1
    increments = increment_rewards(LOGITS, INDEX, torch.exp)
    torch.testing.assert_close(increments, torch.tensor([1.0, 2.0, 2.0, -1.0, 1.0, 7.0]))
    occupancy = occupancy_rewards(LOGITS, torch.exp)
    torch.testing.assert_close(occupancy, torch.tensor([1.0, 3.0, 2.0, -1.0, 0.0, 7.0]))


def test_hand_computed_sums():
    values = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    assert action_positions(INDEX).tolist() == [0, 1, 0, 0, 1, 2]
    assert prefix_sums(values, INDEX).tolist() == [1.0, 3.0, 4.0, 8.0, 24.0, 56.0]
    assert rewards_to_go(values, INDEX).tolist() == [3.0, 2.0, 4.0, 56.0, 48.0, 32.0]


@given(batch=flat_batches())
def test_sums_equal_a_loop_over_each_sequence(batch):
    index, values, _ = batch
    for t in range(len(index)):
        own = [s for s in range(len(index)) if index[s] == index[t]]
        before = sum(values[s] for s in own if s <= t)
        behind = sum(values[s] for s in own if s >= t)
        torch.testing.assert_close(prefix_sums(values, index)[t], before, atol=1e-12, rtol=0.0)
        torch.testing.assert_close(rewards_to_go(values, index)[t], behind, atol=1e-12, rtol=0.0)


@given(batch=flat_batches(), data=st.data())
def test_increments_to_go_are_the_final_reward_less_the_one_before_the_token(batch, data):
    index, _, _ = batch
    logits = data.draw(floats64(len(index)))
    found = rewards_to_go(increment_rewards(logits, index, torch.exp), index)
    for t in range(len(index)):
        last = int((index == index[t]).nonzero().max())
        before = logits[t - 1].exp().item() if t and index[t - 1] == index[t] else 1.0
        assert math.isclose(found[t].item(), logits[last].exp().item() - before, abs_tol=1e-10)


def test_rewards_are_constants():
    logits = LOGITS.clone().requires_grad_()
    assert not increment_rewards(logits, INDEX, torch.exp).requires_grad
    assert not occupancy_rewards(logits, torch.exp).requires_grad


def test_a_broken_logit_stays_in_its_sequence():
    logits = LOGITS.clone()
    logits[3] = torch.nan
    rewards = increment_rewards(logits, INDEX, torch.exp)
    assert rewards_to_go(rewards, INDEX).isnan().tolist() == [False] * 3 + [True, True, False]
    assert prefix_sums(rewards, INDEX).isnan().tolist() == [False] * 3 + [True] * 3


def test_no_actions_have_no_rewards():
    empty, index = torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    assert len(increment_rewards(empty, index, torch.exp)) == 0
    assert len(occupancy_rewards(empty, torch.exp)) == 0
    assert len(rewards_to_go(empty, index)) == len(prefix_sums(empty, index)) == 0
