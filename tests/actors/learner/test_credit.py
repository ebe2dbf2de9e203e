"""From the logits of an optimal discriminator to the gradient of the divergence it stands for."""

import pytest
import torch
from hypothesis import assume, given, settings

from actors.config.objective import ObjectiveConfig
from actors.learner.credit import assign_credit, reward_advantages
from alignment.divergences.lookup import divergence
from alignment.mdp.packing import microbatches
from alignment.mdp.segments import prefix_sums
from alignment.mdp.trajectories import concatenate, pack
from alignment.studies.response_table import tabular_action_logprobs, tabular_response_logprobs
from tests.enumeration import all_groups, expected_gradient
from tests.strategies import TABLE, policy_tables

PAIRS = all_groups(2)
NUM = len(TABLE.responses)
BOUNDED = {"jensen_shannon": {}, "reverse_kl": {}, "alpha": {"alpha": 0.3}, "le_cam": {}}


def packed_pairs():
    """The batch that a learner would be given of all pairs of responses to one prompt."""
    responses = [TABLE.responses[i] for i in PAIRS.members.tolist()]
    rows = zip(PAIRS.group_ids.tolist(), responses, strict=True)
    (batch,) = microbatches(concatenate([pack([9], y, prompt_id=g) for g, y in rows]), 10**6)
    return batch


BATCH = packed_pairs()


def prefix_logits(expert, policy):
    """[action of TABLE] log-ratio of the response up to and with each action."""
    ratios = tabular_action_logprobs(expert, TABLE) - tabular_action_logprobs(policy, TABLE)
    return prefix_sums(ratios, TABLE.sequence_index)


def credit_of(objective, expert, policy, snapshot, rewards=None):
    """What the learner computes when policy is trained on samples and logits of snapshot."""
    logits = prefix_logits(expert, snapshot)
    if objective.level == "trajectory":
        whole = tabular_response_logprobs(expert, TABLE)
        logits = (whole - tabular_response_logprobs(snapshot, TABLE))[PAIRS.members]
    else:
        logits = logits[PAIRS.actions]
    behavior = tabular_action_logprobs(snapshot, TABLE)[PAIRS.actions]
    return assign_credit(
        BATCH,
        tabular_action_logprobs(policy, TABLE)[PAIRS.actions],
        behavior,
        logits,
        torch.zeros(len(PAIRS.members), dtype=torch.float64) if rewards is None else rewards,
        objective,
    )


def objective_for(name, **more):
    parameters = BOUNDED.get(name, {})
    return ObjectiveConfig(divergence=name, divergence_parameters=parameters, **more)


def trajectory_divergence(name, expert, policy):
    p, q = (tabular_response_logprobs(table, TABLE).exp() for table in (expert, policy))
    return divergence(name, **BOUNDED[name]).value(p, q)


def occupancy_divergence(name, expert, policy):
    """Of the visits to every prefix, whose sum is the expected length: f~ = f - f'(1) (u - 1)."""
    generator = divergence(name, **BOUNDED[name]).generator
    slope = generator.derivative(torch.ones((), dtype=torch.float64))
    total = 0.0
    seen = {}
    for i, response in enumerate(TABLE.responses):
        for length in range(1, len(response) + 1):
            seen.setdefault(response[:length], []).append(i)
    p, q = (tabular_response_logprobs(table, TABLE).exp() for table in (expert, policy))
    for rows in seen.values():  # a prefix is visited by whatever begins with it
        rho_p, rho_q = p[rows].sum(), q[rows].sum()
        u = rho_p / rho_q
        total = total + rho_q * (generator.f(u) - slope * (u - 1.0))
    return total


VALUES = {
    "trajectory": trajectory_divergence,
    "token": trajectory_divergence,
    "occupancy": occupancy_divergence,
}


@pytest.mark.parametrize("name", list(BOUNDED))
@pytest.mark.parametrize("level", list(VALUES))
@given(expert=policy_tables(1.0), policy=policy_tables(1.0))
@settings(max_examples=4)
def test_each_levels_step_is_the_gradient_of_what_it_names(level, name, expert, policy):
    credit = credit_of(objective_for(name, level=level), expert, policy, policy)
    assume(credit.num_clipped == 0)
    step = expected_gradient(policy, policy, credit.advantages, PAIRS)
    policy.requires_grad_()
    (exact,) = torch.autograd.grad(VALUES[level](name, expert, policy), policy)
    torch.testing.assert_close(step, exact, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("level", ["trajectory", "token"])
@given(expert=policy_tables(0.5), policy=policy_tables(0.1), snapshot=policy_tables(0.1))
@settings(max_examples=4)
def test_logits_of_an_older_policy_give_the_same_credit(level, expert, policy, snapshot):
    """With sequence weights the samples' staleness is exact too."""
    objective = objective_for("jensen_shannon", level=level)
    credit = credit_of(objective, expert, policy, snapshot)
    assert credit.num_corrections_clipped == credit.num_clipped == 0
    step = expected_gradient(
        policy, snapshot, credit.advantages, PAIRS, importance="sequence", limit=None
    )
    policy.requires_grad_()
    (exact,) = torch.autograd.grad(trajectory_divergence("jensen_shannon", expert, policy), policy)
    torch.testing.assert_close(step, exact, atol=1e-10, rtol=1e-10)


@given(expert=policy_tables(1.0), policy=policy_tables(1.0))
@settings(max_examples=3)
def test_levels_trajectory_and_token_are_worth_the_same_in_all(expert, policy):
    """The increments add up to the reward of the whole response less r(0)."""
    whole, token = (
        credit_of(objective_for("reverse_kl", level=level), expert, policy, policy)
        for level in ("trajectory", "token")
    )
    torch.testing.assert_close(token.rewards, whole.rewards, atol=1e-12, rtol=0.0)


@pytest.mark.parametrize("level", list(VALUES))
def test_further_rewards_add_their_own_leave_one_out_advantage(level):
    expert, policy = torch.zeros(7, 3).double(), torch.zeros(7, 3).double()
    rewards = torch.arange(len(PAIRS.members)).double()
    credit = credit_of(objective_for("reverse_kl", level=level), expert, policy, policy, rewards)
    # in a pair, the later one is worth 1 more than the earlier one
    expected = torch.where(BATCH.sequence_index % 2 == 1, 1.0, -1.0).double()
    torch.testing.assert_close(credit.advantages, expected)
    torch.testing.assert_close(credit.rewards, rewards)


def test_the_weight_of_the_divergence_scales_it():
    expert = torch.linspace(-1, 1, 21).reshape(7, 3).double()
    policy = torch.zeros(7, 3).double()
    for more in ({"level": "trajectory"}, {"level": "token"}, {"level": "occupancy"}):
        one, three = (
            credit_of(objective_for("le_cam", divergence_weight=w, **more), expert, policy, policy)
            for w in (1.0, 3.0)
        )
        torch.testing.assert_close(three.advantages, 3.0 * one.advantages)
        torch.testing.assert_close(three.rewards, 3.0 * one.rewards)


def test_baselines_by_hand():
    """Two responses worth 0 and 2 (reverse KL's reward is the logit)."""
    expert = torch.linspace(-1, 1, 21).reshape(7, 3).double()
    policy = torch.zeros(7, 3).double()
    logits = (tabular_response_logprobs(expert, TABLE) - tabular_response_logprobs(policy, TABLE))[
        PAIRS.members
    ].reshape(-1, 2)
    half = (logits[:, 0] - logits[:, 1]) / 2
    first = BATCH.sequence_index % 2 == 0
    for advantage, factor in (("leave_one_out", 2.0), ("group_mean", 1.0)):
        objective = objective_for("reverse_kl", advantage=advantage)
        found = credit_of(objective, expert, policy, policy).advantages
        expected = factor * half[BATCH.group_index[BATCH.sequence_index]]
        torch.testing.assert_close(found, torch.where(first, expected, -expected))


def test_self_normalized_weights_are_shares_of_the_groups_odds():
    expert = torch.linspace(-1, 1, 21).reshape(7, 3).double()
    policy = torch.zeros(7, 3).double()
    objective = ObjectiveConfig(divergence="forward_kl", advantage="self_normalized")
    credit = credit_of(objective, expert, policy, policy)
    logits = tabular_response_logprobs(expert, TABLE) - tabular_response_logprobs(policy, TABLE)
    shares = logits[PAIRS.members].reshape(-1, 2).softmax(1)
    expected = (2.0 * shares - 1.0).reshape(-1)[BATCH.sequence_index]
    torch.testing.assert_close(credit.advantages, expected)
    torch.testing.assert_close(credit.effective_sizes, 1.0 / shares.square().sum(1))


def test_what_is_cut_is_counted():
    expert, policy = torch.zeros(7, 3).double(), torch.zeros(7, 3).double()
    expert[:, 0] = 12.0  # a response that does not end is nearly impossible
    credit = credit_of(objective_for("reverse_kl"), expert, policy, policy)
    logits = tabular_response_logprobs(expert, TABLE) - tabular_response_logprobs(policy, TABLE)
    assert credit.num_clipped == (logits[PAIRS.members].abs() > 10.0).sum() > 0
    far = credit_of(objective_for("reverse_kl"), policy, expert, policy)
    moved = tabular_response_logprobs(expert, TABLE) - tabular_response_logprobs(policy, TABLE)
    assert far.num_corrections_clipped == (moved[PAIRS.members].abs() > 5.0).sum() > 0


def test_a_critics_value_is_not_corrected_for_staleness():
    policy, snapshot = torch.zeros(7, 3).double(), torch.linspace(-1, 1, 21).reshape(7, 3).double()
    fresh = credit_of(objective_for("wasserstein"), policy, snapshot, snapshot)
    stale = credit_of(objective_for("wasserstein"), policy, policy, snapshot)
    torch.testing.assert_close(fresh.advantages, stale.advantages)


@pytest.mark.parametrize(
    ("advantage", "expected"),
    [
        ("leave_one_out", [-2.0, 2.0, 3.0, -3.0]),
        ("group_mean", [-1.0, 1.0, 1.5, -1.5]),
        ("group_normalized", [-1.0, 1.0, 1.0, -1.0]),
        ("best_of_group", [0.0, 2.0, 2.0, 0.0]),
        ("self_normalized", [-2.0, 2.0, 3.0, -3.0]),  # of logits, which are not there
    ],
)
def test_rewards_alone_have_the_baseline_that_was_chosen(advantage, expected):
    responses = [pack([9], [3, 2], prompt_id=number) for number in (0, 0, 1, 1)]
    (batch,) = microbatches(concatenate(responses), 64)
    rewards = torch.tensor([1.0, 3.0, 5.0, 2.0])
    objective = ObjectiveConfig(divergence="forward_kl", advantage=advantage)
    found = reward_advantages(batch, rewards, objective)
    population = torch.tensor(expected).repeat_interleave(2)
    if advantage == "group_normalized":
        population = population / 2**0.5  # the deviation of a sample of two, not of a population
    assert torch.allclose(found, population, atol=1e-3)
