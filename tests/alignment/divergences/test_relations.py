"""How divergences relate: limits of families, swapped sides, agreement near the expert."""

import pytest
import torch
from hypothesis import given, settings

from alignment.divergences.lookup import divergence
from tests.alignment.divergences.records import CURVED, f64, kl, log_grid, over
from tests.strategies import distributions

EQUAL = [  # a member of a family, and how often the named divergence it is
    (("alpha", {"alpha": 0.0}), 1.0, "reverse_kl"),
    (("alpha", {"alpha": 1.0}), 1.0, "forward_kl"),
    (("alpha", {"alpha": 0.5}), 2.0, "squared_hellinger"),
    (("alpha", {"alpha": 2.0}), 0.5, "pearson_chi2"),
    (("alpha", {"alpha": -1.0}), 0.5, "neyman_chi2"),
    (("generalized_js", {"beta": 0.0}), 1.0, "forward_kl"),
    (("generalized_js", {"beta": 0.5}), 4.0, "jensen_shannon"),
    (("generalized_js", {"beta": 1.0}), 1.0, "reverse_kl"),
    (("skew_forward_kl", {"skew": 0.0}), 1.0, "forward_kl"),
    (("skew_reverse_kl", {"skew": 0.0}), 1.0, "reverse_kl"),
]
SWAPPED = [  # a divergence and the one that it is with its sides swapped
    (("forward_kl", {}), ("reverse_kl", {})),
    (("pearson_chi2", {}), ("neyman_chi2", {})),
    (("alpha", {"alpha": 0.3}), ("alpha", {"alpha": 0.7})),
    (("alpha", {"alpha": -1.5}), ("alpha", {"alpha": 2.5})),
    (("generalized_js", {"beta": 0.1}), ("generalized_js", {"beta": 0.9})),
    (("skew_forward_kl", {"skew": 0.2}), ("skew_reverse_kl", {"skew": 0.2})),
    *(
        ((name, {}), (name, {}))
        for name in (
            "jensen_shannon", "squared_hellinger", "total_variation", "jeffreys", "le_cam"
        )
    ),
]  # fmt: skip
JUMPLESS = [
    ("alpha", "alpha", 0.0, 1.0),
    ("alpha", "alpha", 1.0, -1.0),
    ("generalized_js", "beta", 0.0, 1.0),
    ("generalized_js", "beta", 1.0, -1.0),
    ("skew_forward_kl", "skew", 0.0, 1.0),
    ("skew_reverse_kl", "skew", 0.0, 1.0),
]


def close(found, exact, tolerance=1e-11):
    torch.testing.assert_close(found, exact, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("member", "factor", "name"), EQUAL)
@given(p=distributions(5), q=distributions(5))
@settings(max_examples=5)
def test_families_contain_the_named_divergences(member, factor, name, p, q):
    record, named = divergence(member[0], **member[1]), divergence(name)
    close(record.value(p, q), factor * named.value(p, q))
    h = log_grid(-3.0, 3.0, 7)
    close(
        record.reward(h) - record.reward(f64(0.0)),
        factor * (named.reward(h) - named.reward(f64(0.0))),
    )


@pytest.mark.parametrize(("name", "parameter", "end", "inwards"), JUMPLESS)
def test_families_are_continuous_at_their_ends(name, parameter, end, inwards):
    p, q = f64(0.6, 0.3, 0.1), f64(0.2, 0.3, 0.5)
    at_end = divergence(name, **{parameter: end})
    near = divergence(name, **{parameter: end + inwards * 1e-9})
    h = log_grid(-5.0, 5.0, 21)
    close(near.value(p, q), at_end.value(p, q), 1e-7)
    close(near.reward(h), at_end.reward(h), 1e-6)
    close(near.generator.derivative(h.exp()), at_end.generator.derivative(h.exp()), 1e-6)


@given(p=distributions(5), q=distributions(5))
@settings(max_examples=10)
def test_the_loss_of_gkd_jumps_to_a_kl_where_the_normalized_one_is_continuous(p, q):
    for beta in (0.01, 0.3, 0.99):
        m = beta * p + (1.0 - beta) * q
        of_gkd = beta * kl(p, m) + (1.0 - beta) * kl(q, m)
        normalized = divergence("generalized_js", beta=beta).value(p, q)
        close(beta * (1.0 - beta) * normalized, of_gkd)
    for beta, limit in ((1e-9, kl(p, q)), (1.0 - 1e-9, kl(q, p))):
        of_gkd = beta * (1.0 - beta) * divergence("generalized_js", beta=beta).value(p, q)
        close(of_gkd / min(beta, 1.0 - beta), limit, 1e-5)


@pytest.mark.parametrize(("one", "other"), SWAPPED)
@given(p=distributions(5), q=distributions(5))
@settings(max_examples=5)
def test_swapping_the_sides_gives_another_divergence_of_the_list(one, other, p, q):
    first, second = divergence(one[0], **one[1]), divergence(other[0], **other[1])
    close(first.value(q, p), second.value(p, q))
    u = log_grid(-3.0, 3.0, 13).exp()  # g(u) = u f(1 / u), up to c (u - 1)
    swapped = u * first.generator.f(1.0 / u) - second.generator.f(u)
    linear = swapped[-1] / (u[-1] - 1.0) * (u - 1.0)
    close(swapped, linear, 1e-9)


@over(CURVED)
def test_all_agree_near_the_expert_up_to_half_the_curvature_at_one(record):
    expert = f64(0.4, 0.3, 0.2, 0.1)
    policy = expert * (1.0 + 1e-4 * f64(1.0, -1.0, 0.5, -2.0))
    assert policy.sum().item() == pytest.approx(1.0, abs=1e-12)
    chi2 = ((expert - policy).square() / policy).sum()
    curvature = record.generator.second_derivative(f64(1.0)).squeeze()
    assert (record.value(expert, policy) / chi2).item() == pytest.approx(
        0.5 * curvature.item(), rel=1e-3
    )


def test_bounded_divergences_stay_within_their_bounds():
    apart = f64(1.0, 0.0), f64(0.0, 1.0)
    assert divergence("jensen_shannon").value(*apart).item() == pytest.approx(0.693147, abs=5e-7)
    assert divergence("squared_hellinger").value(*apart).item() == 2.0
    assert divergence("total_variation").value(*apart).item() == 1.0
    assert divergence("le_cam").value(*apart).item() == 2.0
    # -log 0.1
    for name in ("skew_forward_kl", "skew_reverse_kl"):
        value = divergence(name, skew=0.1).value(*apart).item()
        assert value == pytest.approx(2.302585, abs=5e-7)
