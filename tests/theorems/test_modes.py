"""Theorem 15: divergences agree near the expert, and part where its modes cannot be held."""

import itertools
import math

import pytest
import torch
from torch.nn.functional import logsigmoid

from alignment.divergences.lookup import divergence
from alignment.studies.lbfgs import minimize_lbfgs

POINTS = torch.linspace(-6, 6, 121, dtype=torch.float64)
SEQUENCES = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)), dtype=torch.float64)
TEMPLATES = (SEQUENCES.sum(1) == 0, SEQUENCES.sum(1) == 6)
SMOOTH = {
    "forward_kl": {},
    "reverse_kl": {},
    "jensen_shannon": {},
    "jeffreys": {},
    "alpha": {"alpha": 0.3},
    "squared_hellinger": {},
    "pearson_chi2": {},
    "neyman_chi2": {},
    "generalized_js": {"beta": 0.2},
    "skew_forward_kl": {"skew": 0.1},
    "skew_reverse_kl": {"skew": 0.1},
    "le_cam": {},
}


def best_fit(policy, expert, record, starts):
    """The parameters of the lowest minimum that the starts lead to."""
    found = [minimize_lbfgs(lambda x: record.value(expert, policy(x)), start) for start in starts]
    return min(found, key=lambda x: float(record.value(expert, policy(x))))


def gaussian(mean_and_log_sd):
    mean, log_sd = mean_and_log_sd
    inside = torch.softmax(-((POINTS - mean) ** 2) / (2 * (2 * log_sd).exp()), 0)
    return inside * (1 - 1e-9) + 1e-9 / len(POINTS)


def two_bumps(distance):
    """Modes of weight 0.6 and 0.4 at -distance and +distance, standard deviation 0.6."""
    left, right = (torch.exp(-((POINTS - at) ** 2) / 0.72) for at in (-distance, distance))
    bumps = 0.6 * left + 0.4 * right + 1e-9
    return bumps / bumps.sum()


def independent_tokens(logits):
    each = SEQUENCES * logsigmoid(logits) + (1 - SEQUENCES) * logsigmoid(-logits)
    return each.sum(1).exp()


def two_templates():
    """000000 in seven of ten responses, 111111 in three, and one in a thousand anything."""
    zeros, ones = (template.double() for template in TEMPLATES)
    return (1 - 1e-3) * (0.7 * zeros + 0.3 * ones) + 1e-3 / len(SEQUENCES)


@pytest.mark.parametrize("name", SMOOTH)
def test_near_the_expert_every_divergence_is_half_its_curvature_times_chi_square(name):
    record = divergence(name, **SMOOTH[name])
    generator = torch.Generator().manual_seed(0)
    expert = torch.randn(8, generator=generator, dtype=torch.float64).softmax(0)
    step = 1e-3 * torch.randn(8, generator=generator, dtype=torch.float64)
    policy = (expert.log() + step).softmax(0)
    chi_square = ((expert - policy) ** 2 / policy).sum()
    curvature = record.generator.second_derivative(torch.ones(1, dtype=torch.float64))
    expected = 0.5 * float(curvature) * float(chi_square)
    assert float(record.value(expert, policy)) == pytest.approx(expected, rel=2e-2)


@pytest.mark.parametrize(
    ("name", "parameters", "distance", "mean", "sd"),
    [
        ("reverse_kl", {}, 1.5, -0.24, 1.42),  # still covers both modes
        ("reverse_kl", {}, 2.0, -2.00, 0.60),  # is the left mode
        ("jensen_shannon", {}, 2.0, -0.41, 2.06),
        ("jensen_shannon", {}, 2.5, -2.50, 0.60),
        ("squared_hellinger", {}, 2.0, -0.39, 2.02),
        ("squared_hellinger", {}, 2.5, -2.50, 0.60),
        ("forward_kl", {}, 2.5, -0.60, 2.78),
        ("pearson_chi2", {}, 2.5, -0.62, 2.81),
        ("skew_forward_kl", {"skew": 0.1}, 2.5, -0.60, 2.77),
    ],
)
def test_the_further_modes_lie_apart_the_more_divergences_give_one_up(
    name, parameters, distance, mean, sd
):
    starts = [[-distance, -0.5], [distance, -0.5], [0.0, 0.3]]
    found = best_fit(
        gaussian,
        two_bumps(distance),
        divergence(name, **parameters),
        [torch.tensor(start, dtype=torch.float64) for start in starts],
    )
    assert float(found[0]) == pytest.approx(mean, abs=0.03)
    assert math.exp(float(found[1])) == pytest.approx(sd, abs=0.05)


@pytest.mark.parametrize(
    ("name", "parameters", "valid", "first"),
    [
        ("forward_kl", {}, 0.118, 0.117),
        ("reverse_kl", {}, 1.0, 1.0),
        ("jensen_shannon", {}, 1.0, 1.0),
        ("alpha", {"alpha": 0.5}, 1.0, 1.0),
    ],
)
def test_covering_two_templates_with_independent_tokens_writes_mostly_nonsense(
    name, parameters, valid, first
):
    starts = [torch.full((6,), value, dtype=torch.float64) for value in (-0.8, 0.8, 3.0, -3.0)]
    record = divergence(name, **parameters)
    policy = independent_tokens(best_fit(independent_tokens, two_templates(), record, starts))
    zeros, ones = (float(policy[template].sum()) for template in TEMPLATES)
    assert zeros + ones == pytest.approx(valid, abs=3e-3)
    assert zeros == pytest.approx(first, abs=3e-3)
