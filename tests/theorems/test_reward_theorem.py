"""Theorem 3: the reward of every f-divergence, and of the same one with its arguments swapped.

-grad D(p, q) = E_q[(u f'(u) - f(u)) grad log q] and u f' - f = f*(f'(u)), at u = p / q.
"""

import pytest
import torch
from hypothesis import given, settings

from alignment.divergences.lookup import DIVERGENCES, divergence
from tests.strategies import distributions, policy_tables
from tests.theorems.tabular import EXACT, gradient, log_ratios, probabilities, reward_gradient

PARAMETERS = {
    "alpha": [{"alpha": value} for value in (-1.0, 0.3, 0.5, 2.0)],
    "generalized_js": [{"beta": value} for value in (0.1, 0.5, 0.9)],
    "skew_forward_kl": [{"skew": value} for value in (0.1, 0.5)],
    "skew_reverse_kl": [{"skew": value} for value in (0.1, 0.5)],
}
RECORDS = [
    divergence(name, **parameters)
    for name in DIVERGENCES
    for parameters in PARAMETERS.get(name, [{}])
]
NO_F_DIVERGENCE = {"fairl", "wasserstein"}

few_examples = settings(max_examples=5)  # of each of twenty records
every_f_divergence = pytest.mark.parametrize(
    "record",
    [record for record in RECORDS if record.generator],
    ids=lambda record: record.name,
)
swapped = pytest.mark.parametrize(
    ("one", "other"),
    [
        (divergence("forward_kl"), divergence("reverse_kl")),
        (divergence("pearson_chi2"), divergence("neyman_chi2")),
        (divergence("alpha", alpha=0.3), divergence("alpha", alpha=0.7)),
        (divergence("generalized_js", beta=0.2), divergence("generalized_js", beta=0.8)),
        (divergence("skew_forward_kl", skew=0.1), divergence("skew_reverse_kl", skew=0.1)),
        *(
            (divergence(name), divergence(name))
            for name in (
                *("jensen_shannon", "jeffreys", "squared_hellinger"),
                *("total_variation", "le_cam"),
            )
        ),
    ],
    ids=lambda record: record.name,
)


def test_only_what_is_labelled_has_no_generator():
    assert {record.name for record in RECORDS if not record.generator} == NO_F_DIVERGENCE


@every_f_divergence
@given(expert=policy_tables(0.7), policy=policy_tables(0.7))
@few_examples
def test_policy_gradient_of_the_reward_is_minus_that_of_the_divergence(record, expert, policy):
    p, logits = probabilities(expert), log_ratios(expert, policy)
    exact = gradient(lambda table: record.value(p, probabilities(table)), policy)
    torch.testing.assert_close(reward_gradient(policy, record.reward(logits)), -exact, **EXACT)


@every_f_divergence
@given(expert=policy_tables(0.7), policy=policy_tables(0.7))
@few_examples
def test_with_its_arguments_swapped_the_reward_is_minus_the_derivative(record, expert, policy):
    p, ratios = probabilities(expert), log_ratios(expert, policy).exp()
    exact = gradient(lambda table: record.value(probabilities(table), p), policy)
    rewards = -record.generator.derivative(1.0 / ratios)
    torch.testing.assert_close(reward_gradient(policy, rewards), -exact, **EXACT)


@swapped
@given(expert=distributions(5, 1.5), policy=distributions(5, 1.5))
@few_examples
def test_swapping_the_arguments_gives_another_record_of_the_family(one, other, expert, policy):
    swapped_value = other.value(policy, expert)
    torch.testing.assert_close(one.value(expert, policy), swapped_value, atol=1e-11, rtol=1e-11)
