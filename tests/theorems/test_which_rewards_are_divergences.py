"""Theorem 5: a reward belongs to a divergence exactly where it increases, with f'' = r'(u) / u.

Where it does not increase, following it leads away from the expert: FAIRL (arXiv:1911.02256) and
the least-squares generator loss with its target half way (arXiv:1611.04076) are the two examples.
"""

import math

import pytest
import torch
from torch.nn.functional import logsigmoid, softplus

from alignment.discriminator.losses import least_squares_costs
from alignment.divergences.lookup import DIVERGENCES, divergence
from alignment.divergences.record import clip_logits
from tests.theorems.tabular import (
    EXACT,
    NUM,
    climb,
    cosine,
    gradient,
    kl,
    log_ratios,
    probabilities,
    random_logits,
    random_tables,
    reward_gradient,
)

PARAMETERS = {
    "alpha": {"alpha": 0.5},
    "generalized_js": {"beta": 0.1},
    "skew_forward_kl": {"skew": 0.1},
    "skew_reverse_kl": {"skew": 0.1},
}
RECORDS = {name: divergence(name, **PARAMETERS.get(name, {})) for name in DIVERGENCES}
SMOOTH = [name for name in RECORDS if name not in {"fairl", "wasserstein", "total_variation"}]
FAIRL = RECORDS["fairl"].reward
LOGITS = torch.linspace(-6.0, 6.0, 1201, dtype=torch.float64)
RATIOS = LOGITS.exp()

NUM_OUTCOMES = 5
EXPERT = random_logits(0, 3, NUM_OUTCOMES, scale=0.7).softmax(-1)
NEAR = EXPERT.log() + random_logits(1, 3, NUM_OUTCOMES, scale=0.05)
FAR = random_logits(2, 3, NUM_OUTCOMES, scale=1.2)
STARTS = torch.cat([NEAR, FAR])
EXPERTS = torch.cat([EXPERT, EXPERT])


def second_derivative(reward):
    """f'' of the divergence that a reward of the logit belongs to: dr/du = r'(h) / u, over u."""
    logits = LOGITS.clone().requires_grad_()
    (slope,) = torch.autograd.grad(reward(logits).sum(), logits)
    return slope / RATIOS.square()


def distances(reward, num_steps, starts=STARTS, experts=EXPERTS):
    """KL(expert, policy) before and after following a reward of the exact logit."""
    ends = climb(
        starts,
        lambda logprobs: reward(experts.log() - logprobs),
        step_size=0.2,
        num_steps=num_steps,
    )
    return kl(experts, starts.softmax(-1)), kl(experts, ends.softmax(-1))


def clipped_reward(record):
    """As a run uses it."""

    def reward(logits):
        clipped = clip_logits(logits.ravel(), record).logits
        return record.reward(clipped).reshape(logits.shape)

    return reward


@pytest.mark.parametrize("name", SMOOTH)
def test_second_derivative_of_the_generator_follows_from_the_reward(name):
    found = second_derivative(RECORDS[name].reward)
    exact = RECORDS[name].generator.second_derivative(RATIOS)
    torch.testing.assert_close(found, exact, atol=0.0, rtol=1e-8)
    assert (found > 0).all()


@pytest.mark.parametrize(
    ("reward", "record", "scale"),
    [
        pytest.param(torch.sigmoid, divergence("skew_forward_kl", skew=0.5), 1.0, id="D"),
        pytest.param(logsigmoid, divergence("log_d"), 1.0, id="log D"),
        pytest.param(softplus, divergence("jensen_shannon"), 2.0, id="-log(1 - D)"),
    ],
)
def test_rewards_of_the_literature_belong_to(reward, record, scale):
    exact = scale * record.generator.second_derivative(RATIOS)
    torch.testing.assert_close(second_derivative(reward), exact, atol=0.0, rtol=1e-8)


@pytest.mark.parametrize("name", [*SMOOTH, "total_variation", "wasserstein"])
def test_reward_never_falls(name):
    assert (RECORDS[name].reward(LOGITS).diff() >= 0.0).all()


def test_fairl_belongs_to_no_divergence_beyond_ratios_of_one_over_e():
    implied = second_derivative(FAIRL)
    torch.testing.assert_close(implied, -(1.0 + LOGITS) / RATIOS, atol=1e-12, rtol=1e-8)
    assert (implied[LOGITS < -1.0 - 1e-9] > 0).all()
    assert (implied[LOGITS > -1.0 + 1e-9] < 0).all()
    rewards = FAIRL(LOGITS)
    assert LOGITS[rewards.argmax()].item() == pytest.approx(-1.0)
    assert rewards.max().item() == pytest.approx(math.exp(-1.0))


@pytest.mark.parametrize("seed", range(3))
def test_near_the_expert_fairl_points_away_from_it(seed):
    expert, direction = random_tables(seed)
    policy = expert + 0.03 * direction
    p = probabilities(expert)
    record = divergence("forward_kl")
    descent = -gradient(lambda table: record.value(p, probabilities(table)), policy)
    fairl = reward_gradient(policy, FAIRL(log_ratios(expert, policy)))
    assert cosine(fairl, descent) < -0.95


@pytest.mark.parametrize("name", SMOOTH)
def test_every_increasing_reward_leads_to_the_expert_from_near_and_from_far(name):
    before, after = distances(clipped_reward(RECORDS[name]), 500)
    assert (after < before / 20).all()


def test_a_tightly_clipped_logit_still_leads_to_the_expert():
    before, after = distances(lambda logits: logits.clamp(-0.5, 0.5), 500)
    assert (after < before / 20).all()


def test_fairl_leaves_the_expert_at_a_growing_pace():
    before, after = distances(FAIRL, 50, NEAR, EXPERT)
    assert (before < 1e-3).all()
    assert (after > 100.0 * before).all()


def test_fairl_clipped_ends_far_from_the_expert_wherever_it_starts():
    before, after = distances(clipped_reward(RECORDS["fairl"]), 500)
    assert (after > before + 2.0).all()


@pytest.mark.parametrize("seed", range(3))
def test_least_squares_discriminator_knows_the_ratio_and_its_score_is_le_cams_divergence(seed):
    p, q = (probabilities(table) for table in random_tables(seed))

    def score(logits):
        of_expert = least_squares_costs(logits, torch.ones(NUM, dtype=bool), label_smoothing=0.0)
        of_policy = least_squares_costs(logits, torch.zeros(NUM, dtype=bool), label_smoothing=0.0)
        return (p * of_expert + q * of_policy).sum()

    optimum = (p / q).log()
    assert gradient(score, optimum).abs().max() < 1e-14
    # At D = p / (p + q) the score is sum p q / (p + q), and 4 p q = (p + q)^2 - (p - q)^2
    exact = 0.5 - 0.25 * divergence("le_cam").value(p, q)
    torch.testing.assert_close(score(optimum), exact, **EXACT)


def test_le_cam_reward_is_a_square_of_the_least_squares_output():
    # With targets -1 and 1 the optimal output is tanh(h / 2)
    found = RECORDS["le_cam"].reward(LOGITS) - RECORDS["le_cam"].reward(LOGITS[:1])
    square = (torch.tanh(LOGITS / 2.0) + 1.0).square()
    torch.testing.assert_close(found, square - square[0], **EXACT)


def test_least_squares_generator_loss_leads_to_the_expert_only_with_the_expert_as_target():
    before, after = distances(lambda logits: -torch.sigmoid(-logits).square(), 500)
    assert (after < before / 2).all()
    before, after = distances(lambda logits: -0.5 * torch.tanh(logits / 2.0).square(), 500)
    assert (after > 0.9 * before)[: len(NEAR)].all()
    assert (after > 0.5 * before)[len(NEAR) :].all()
