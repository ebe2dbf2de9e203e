"""The objective; what it converges to is theorem 12."""

import pytest
import torch
from hypothesis import given
from torch.nn.functional import softplus

from alignment.discriminator.losses import pairwise_loss
from alignment.divergences.lookup import divergence
from alignment.objectives.direct_preference import direct_preference
from alignment.objectives.self_play import self_play
from alignment.preferences.lookup import preference_likelihood
from tests.alignment.divergences.records import f64
from tests.strategies import floats64

EXACT = {"atol": 1e-12, "rtol": 1e-12}
# A demonstration with three rollouts, one with one
GROUPS = torch.tensor([0, 0, 0, 0, 1, 1])
RANKS = f64(0.0, 1.0, 1.0, 1.0, 0.0, 1.0)


def test_hand_computed_value():
    log_ratios = f64(1.0, 0.0, 2.0, 1.0, -0.5, 0.5).requires_grad_()
    out = self_play(log_ratios, RANKS, GROUPS, beta=0.5, num_comparisons=2)
    first = (softplus(f64(-0.5)) + softplus(f64(0.5)) + softplus(f64(0.0))) / 3.0
    torch.testing.assert_close(out.loss, ((first + softplus(f64(0.5))) / 2.0).squeeze())
    # Right, wrong, equal; then wrong
    assert out.diagnostics["preference_accuracy"].item() == pytest.approx((1.5 / 3.0 + 0.0) / 2.0)
    assert out.diagnostics["log_ratio_better"].item() == pytest.approx((1.0 - 0.5) / 2.0)
    assert out.diagnostics["log_ratio_worse"].item() == pytest.approx((1.0 + 0.5) / 2.0)
    out.loss.backward()
    assert log_ratios.grad[0] < 0 < log_ratios.grad[1]


@given(log_ratios=floats64(8, -20.0, 20.0))
def test_with_one_rollout_it_is_dpo_on_demonstration_and_rollout(log_ratios):
    log_ratios.requires_grad_()
    arguments = log_ratios, f64(0.0, 1.0).repeat(4), torch.arange(4).repeat_interleave(2)
    found = self_play(*arguments, beta=0.3, num_comparisons=4)
    dpo = direct_preference(
        *arguments,
        likelihood=preference_likelihood("bradley_terry"),
        divergence=divergence("reverse_kl"),
        beta=0.3,
        label_smoothing=0.0,
        num_comparisons=4,
    )
    torch.testing.assert_close(found.loss, dpo.loss, **EXACT)
    slopes = [torch.autograd.grad(out.loss, log_ratios)[0] for out in (found, dpo)]
    torch.testing.assert_close(*slopes, **EXACT)


@given(log_ratios=floats64(6))
def test_it_is_the_loss_of_a_pairwise_discriminator_with_the_policy_as_its_logit(log_ratios):
    found = self_play(log_ratios, RANKS, GROUPS, beta=0.3, num_comparisons=2).loss
    judged = pairwise_loss(0.3 * log_ratios, RANKS == 0, GROUPS)
    torch.testing.assert_close(found, judged, **EXACT)


@given(log_ratios=floats64(6, -4.0, 4.0))
def test_shards_sum_to_the_whole_step(log_ratios):
    def share(rows):
        leaf = log_ratios[rows].clone().requires_grad_()
        index = GROUPS[rows] - GROUPS[rows].min()
        out = self_play(leaf, RANKS[rows], index, beta=0.3, num_comparisons=2)
        out.loss.backward()
        return out, leaf.grad

    whole, slope = share(GROUPS >= 0)
    left, left_slope = share(GROUPS < 1)
    right, right_slope = share(GROUPS >= 1)
    torch.testing.assert_close(left.loss + right.loss, whole.loss)
    torch.testing.assert_close(torch.cat([left_slope, right_slope]), slope)
    for name, figure in whole.diagnostics.items():
        torch.testing.assert_close(left.diagnostics[name] + right.diagnostics[name], figure)


def test_gradients_are_finite_however_far_the_log_ratios():
    log_ratios = torch.tensor([-1e4, 1e4], requires_grad=True)
    ranks, groups = torch.tensor([0.0, 1.0]), torch.tensor([0, 0])
    self_play(log_ratios, ranks, groups, beta=0.1, num_comparisons=1).loss.backward()
    torch.testing.assert_close(log_ratios.grad, torch.tensor([-0.1, 0.1]))


def test_a_group_without_a_rollout_is_an_error():
    with pytest.raises(ValueError, match="two responses of different ranks; comparison 1"):
        self_play(
            torch.zeros(3),
            torch.tensor([0.0, 1.0, 0.0]),
            torch.tensor([0, 0, 1]),
            beta=0.1,
            num_comparisons=2,
        )


@pytest.mark.parametrize(
    ("beta", "num_comparisons", "message"),
    [(0.0, 1, "beta must be positive"), (0.1, 0, "num_comparisons must be positive, got 0")],
)
def test_wrong_settings_are_errors(beta, num_comparisons, message):
    with pytest.raises(ValueError, match=message):
        self_play(
            torch.zeros(2),
            torch.tensor([0.0, 1.0]),
            torch.tensor([0, 0]),
            beta=beta,
            num_comparisons=num_comparisons,
        )
