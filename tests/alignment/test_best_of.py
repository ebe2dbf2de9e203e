import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignment.advantages import best_of_group
from alignment.best_of import best_of_chances, best_of_kl_bound, best_of_rewards
from alignment.divergences.lookup import divergence
from alignment.estimators import tabular_action_logprobs
from tests.alignment.enumerated_groups import NUM, all_groups, expected_gradient
from tests.alignment.theorems.tabular import (
    EXACT,
    expected_behavior_cloning,
    gradient,
    probabilities,
    random_tables,
)
from tests.strategies import TABLE, distributions, floats64


def law_of_the_best(policy, rewards, num_samples):
    """Chance of each outcome to be the best of several samples; equally good ones share it."""
    best = torch.zeros_like(policy)
    for draws in itertools.product(range(len(policy)), repeat=num_samples):
        drawn = list(draws)
        winners = [draw for draw in drawn if rewards[draw] == rewards[drawn].max()]
        for winner in winners:
            best[winner] += policy[drawn].prod() / len(winners)
    return best


@given(rewards=floats64(6))
def test_estimate_is_the_mean_of_the_largest_over_all_subsets(rewards):
    found = best_of_rewards(rewards)
    for n in range(1, 7):
        largest = [max(subset) for subset in itertools.combinations(rewards.tolist(), n)]
        assert found[n - 1].item() == pytest.approx(sum(largest) / len(largest), abs=1e-12)
    assert found[0].item() == pytest.approx(rewards.mean().item(), abs=1e-12)
    assert found[-1].item() == rewards.max().item()


@given(policy=distributions(3), rewards=floats64(3))
def test_estimate_is_unbiased(policy, rewards):
    # Expectation over all 3^4 draws of four samples, against that of the best of n of them
    expected = torch.zeros(4, dtype=torch.float64)
    for draws in itertools.product(range(3), repeat=4):
        expected += policy[list(draws)].prod() * best_of_rewards(rewards[list(draws)])
    for n in (1, 2, 3, 4):
        exact = law_of_the_best(policy, rewards, n) @ rewards
        torch.testing.assert_close(expected[n - 1], exact, **EXACT)


def test_chances_of_many_samples_are_exact():
    chances = best_of_chances(256)
    ones = torch.ones(256, dtype=torch.float64)
    torch.testing.assert_close(chances.sum(1), ones, atol=1e-13, rtol=0.0)
    assert chances[0].tolist() == [1 / 256] * 256
    # The best of all is in half of the subsets of half the size
    assert chances[127, 255].item() == 0.5
    assert (chances.diff(dim=1) >= 0).all()


def test_prompts_are_estimated_one_by_one_in_their_own_precision():
    rewards = torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 6.0]])
    expected = torch.tensor([[2.0, 8 / 3, 3.0], [2.0, 4.0, 6.0]])
    torch.testing.assert_close(best_of_rewards(rewards), expected)
    assert best_of_rewards(rewards[:, :1]).tolist() == [[1.0], [0.0]]


@pytest.mark.parametrize("function", [best_of_chances, best_of_kl_bound])
def test_no_samples_are_an_error(function):
    with pytest.raises(ValueError, match="num_samples must be at least 1; it is 0"):
        function(0)


@given(policy=distributions(4), rewards=floats64(4), num_samples=st.integers(1, 4))
def test_the_best_of_several_stays_near_the_policy(policy, rewards, num_samples):
    best = law_of_the_best(policy, rewards, num_samples)
    distance = divergence("forward_kl").value(best, policy).item()
    assert distance <= best_of_kl_bound(num_samples) + 1e-12


def test_the_bound_is_reached_by_many_unlikely_responses():
    assert best_of_kl_bound(1) == 0.0
    for num_samples in (2, 4, 16):
        cumulative = torch.linspace(0.0, 1.0, 20001, dtype=torch.float64)
        best = (cumulative**num_samples).diff()
        distance = (best * (best * 20000.0).log()).nansum().item()
        bound = best_of_kl_bound(num_samples)
        assert bound == pytest.approx(math.log(num_samples) - 1.0 + 1.0 / num_samples)
        assert bound - 1e-3 < distance <= bound + 1e-9


def test_hand_computed_advantages_of_the_best():
    # Group 7: 1, 4, 1. Group 3: 5 and 5, a tie. Group 9: alone.
    rewards = torch.tensor([1.0, 5.0, 4.0, 9.0, 5.0, 1.0], requires_grad=True)
    found = best_of_group(rewards, torch.tensor([7, 3, 7, 9, 3, 7]))
    assert found.values.tolist() == [0.0, 1.0, 3.0, 0.0, 1.0, 0.0]
    assert found.is_alone.tolist() == [False, False, False, True, False, False]
    assert not found.values.requires_grad
    empty = best_of_group(torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert len(empty.values) == len(empty.is_alone) == 0


def test_a_broken_reward_stays_in_its_group():
    rewards = torch.tensor([torch.nan, 1.0, 2.0, 4.0])
    found = best_of_group(rewards, torch.tensor([0, 0, 1, 1])).values
    assert found.isnan().tolist() == [True, True, False, False]
    assert found[2:].tolist() == [0.0, 2.0]


@pytest.mark.parametrize("size", [2, 3])
def test_expected_gradient_clones_the_best_of_the_group(size):
    behavior, policy = random_tables(3)
    rewards = torch.arange(NUM, dtype=torch.float64).remainder(7)  # with ties
    groups = all_groups(size)
    advantages = best_of_group(rewards[groups.members], groups.group_ids).values
    found = expected_gradient(policy, behavior, advantages, groups)
    best = law_of_the_best(probabilities(behavior), rewards, size)

    def cloning(table):
        logprobs = tabular_action_logprobs(table, TABLE)
        return expected_behavior_cloning(best, logprobs, TABLE.sequence_index).loss

    torch.testing.assert_close(found, gradient(cloning, policy), **EXACT)
