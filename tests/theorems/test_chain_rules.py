"""Theorem 1: which divergences of whole responses are sums over states, and with which weights."""

import math

import pytest
import torch
from hypothesis import given

from alignment.divergences.lookup import divergence
from alignment.mdp.segments import sequence_lengths
from alignment.studies.response_table import tabular_action_logprobs
from tests.strategies import TABLE, policy_tables
from tests.theorems.tabular import (
    EXACT,
    action_visits,
    probabilities,
    random_logits,
    random_tables,
    reward_gradient,
    state_visits,
)

LENGTHS = torch.bincount(TABLE.sequence_index)
POSITIONS = torch.cat([torch.arange(length) for length in LENGTHS.tolist()])


def at_each_state(name, expert, policy):
    """Divergence of the next-token distributions at every prefix."""
    record = divergence(name)
    rows = zip(expert.softmax(-1), policy.softmax(-1), strict=True)
    return torch.stack([record.value(p, q) for p, q in rows])


@pytest.mark.parametrize("seed", range(3))
def test_policy_gradient_of_one_softmax_is_its_closed_form(seed):
    # Only the first token is rewarded: E[r grad log q] = q (r - E[r]) at the empty prefix
    policy, rewards = random_tables(seed)[0], random_logits(seed + 10, 3)
    by_first_token = rewards[[response[0] for response in TABLE.responses]]
    q = policy[0].softmax(0)
    expected = torch.zeros_like(policy)
    expected[0] = q * (rewards - (q * rewards).sum())
    torch.testing.assert_close(reward_gradient(policy, by_first_token), expected, **EXACT)


@given(policy=policy_tables())
def test_occupancies_sum_to_the_mean_length_and_not_to_one(policy):
    mean_length = (probabilities(policy) * LENGTHS).sum()
    torch.testing.assert_close(action_visits(policy).sum(), mean_length, **EXACT)
    assert mean_length > 1.0


@given(expert=policy_tables(), policy=policy_tables())
@pytest.mark.parametrize(("name", "visitor"), [("forward_kl", "expert"), ("reverse_kl", "policy")])
def test_kl_of_responses_is_the_sum_of_kl_over_the_states_of_its_first_argument(
    name, visitor, expert, policy
):
    visits = state_visits({"expert": expert, "policy": policy}[visitor])
    whole = divergence(name).value(probabilities(expert), probabilities(policy))
    torch.testing.assert_close((visits * at_each_state(name, expert, policy)).sum(), whole, **EXACT)


@given(expert=policy_tables(), policy=policy_tables())
def test_kl_of_occupancies_weighs_each_token_by_the_steps_that_remain(expert, policy):
    visits = action_visits(expert)
    occupancy_kl = (visits * (visits / action_visits(policy)).log()).sum()
    remaining = sequence_lengths(TABLE.sequence_index) - POSITIONS
    gaps = tabular_action_logprobs(expert, TABLE) - tabular_action_logprobs(policy, TABLE)
    chance = probabilities(expert)[TABLE.sequence_index]
    torch.testing.assert_close((chance * remaining * gaps).sum(), occupancy_kl, **EXACT)


@pytest.mark.parametrize("seed", range(3))
def test_kl_of_occupancies_is_not_the_kl_of_responses(seed):
    expert, policy = random_tables(seed)
    visits = action_visits(expert)
    occupancy_kl = (visits * (visits / action_visits(policy)).log()).sum()
    whole = divergence("forward_kl").value(probabilities(expert), probabilities(policy))
    assert abs(occupancy_kl - whole) > 1e-2


@given(expert=policy_tables(), policy=policy_tables())
def test_jensen_shannon_splits_with_the_probability_of_the_prefix_as_its_skew(expert, policy):
    of_expert, of_policy = state_visits(expert), state_visits(policy)
    chances = of_expert / (of_expert + of_policy)  # the optimal D of each prefix
    rows = zip(chances.tolist(), expert.softmax(-1), policy.softmax(-1), strict=True)
    # The record is divided by beta (1 - beta), which the mutual information is not
    skewed = torch.stack(
        [w * (1.0 - w) * divergence("generalized_js", beta=w).value(p, q) for w, p, q in rows]
    )
    whole = divergence("jensen_shannon").value(probabilities(expert), probabilities(policy))
    torch.testing.assert_close((0.5 * (of_expert + of_policy) * skewed).sum(), whole, **EXACT)


@pytest.mark.parametrize("seed", range(3))
def test_jensen_shannon_with_equal_weights_at_every_state_is_something_else(seed):
    expert, policy = random_tables(seed)
    at_states = at_each_state("jensen_shannon", expert, policy)
    whole = divergence("jensen_shannon").value(probabilities(expert), probabilities(policy))
    assert whole <= math.log(2.0)
    for visitor in (expert, policy):
        assert abs((state_visits(visitor) * at_states).sum() - whole) > 1e-3


@given(expert=policy_tables(), policy=policy_tables())
def test_total_variation_of_prefixes_grows_at_most_by_that_of_each_step(expert, policy):
    record = divergence("total_variation")
    per_state = state_visits(expert) * at_each_state("total_variation", expert, policy)
    lengths = torch.tensor([len(prefix) for prefix in TABLE.prefixes])
    for steps in range(1, 4):
        heads = [response[:steps] for response in TABLE.responses]
        groups = torch.tensor([sorted(set(heads)).index(head) for head in heads])
        p, q = (
            torch.zeros(len(set(heads)), dtype=torch.float64).index_add(
                0, groups, probabilities(table)
            )
            for table in (expert, policy)
        )
        assert record.value(p, q) <= per_state[lengths < steps].sum() + 1e-12
