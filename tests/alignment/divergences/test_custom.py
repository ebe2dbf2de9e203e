"""A user's own generator gives the same record as a built-in one, or is rejected where it fails."""

import inspect
import math
import re

import pytest
import torch

from alignment.divergences.lookup import divergence
from alignment.divergences.record import clip_logits
from tests.alignment.divergences import own_generators
from tests.alignment.divergences.records import f64, log_grid

MODULE = "tests.alignment.divergences.own_generators"
SAME = {
    "relative_entropy": "forward_kl",
    "reversed_entropy": "reverse_kl",
    "mean_of_both": "jensen_shannon",
    "square": "pearson_chi2",
    "roots": "squared_hellinger",
    "triangle": "le_cam",
    "kinked": "total_variation",
}
same = pytest.mark.parametrize(("function", "name"), SAME.items())
EXPERT, POLICY = f64(0.5, 0.3, 0.2, 0.0), f64(0.2, 0.3, 0.4, 0.1)


def own(function):
    return divergence(f"{MODULE}:{function}")


@same
def test_own_generator_equals_the_built_in_record(function, name):
    record, built_in = own(function), divergence(name)
    h = log_grid(-5.0, 5.0, 40)
    found = record.reward(h) - record.reward(f64(0.0))
    torch.testing.assert_close(found, built_in.reward(h) - built_in.reward(f64(0.0)))
    for pair in ((EXPERT, POLICY), (POLICY, EXPERT)):
        torch.testing.assert_close(record.value(*pair), built_in.value(*pair))
    mine, theirs = record.generator, built_in.generator
    u = h.exp()
    for part in ("f", "derivative", "second_derivative"):
        torch.testing.assert_close(getattr(mine, part)(u), getattr(theirs, part)(u))
    assert mine.at_zero == pytest.approx(theirs.at_zero, abs=1e-12)
    assert mine.slope_at_infinity == pytest.approx(theirs.slope_at_infinity, abs=1e-12)


@same
def test_own_generator_works_where_gradients_are_off_and_in_float32(function, name):
    record, built_in = own(function), divergence(name)
    logits = torch.tensor([-math.inf, -2.0, -0.5, 0.5, 2.0, math.inf])
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            rewards = record.reward(clip_logits(logits, record).logits)
            curvature = record.generator.second_derivative(logits[1:5].exp())
        assert rewards.dtype == torch.float32
        assert rewards.isfinite().all()
        torch.testing.assert_close(rewards[1:5].diff(), built_in.reward(logits[1:5]).diff())
        exact = built_in.generator.second_derivative(logits[1:5].exp())
        torch.testing.assert_close(curvature, exact)


def test_own_generator_trains_a_critic():
    record, built_in = own("mean_of_both"), divergence("jensen_shannon")
    gradients = []
    for each in (record, built_in):
        h = f64(-2.0, 0.3, 1.0).requires_grad_()
        bound = each.critic(h).sum() - 0.7 * each.critic_cost(h).sum()
        gradients.append(torch.autograd.grad(bound, h)[0])
    torch.testing.assert_close(*gradients)
    with pytest.raises(ValueError, match="no variational critic"):
        own("kinked").critic(f64(0.0))


def test_limits_are_found_where_a_generator_overflows():
    generator = own("quartic_over_cubic").generator
    assert generator.at_zero == pytest.approx(1.0, abs=1e-12)
    assert generator.slope_at_infinity == pytest.approx(1.0, abs=1e-12)


def test_own_generator_is_described_by_its_docstring():
    assert own("relative_entropy").generator_formula == "Forward KL, in other words."
    assert own("relative_entropy").name == f"{MODULE}:relative_entropy"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        # Concave above u = 1 / e: the next ratio is e^-0.99, and -0.01 / e^-0.99 = -0.0269123.
        ("integral_of_fairl", r"is not convex: f''\(0.371577\) is -0.0269123"),
        ("roof", r"is not convex: f' falls from 1 to -1 between u = 1 and 1.01005$"),
        ("line", "is linear"),
        ("lifted", r"must be 0 at u = 1; f\(1\) is 0.25"),
        ("undefined_below_one", r"must be finite .*; f\(4.53999e-05\) is nan"),
        # f' by autograd is log u, and 1 more in truth
        ("forgetful", r"at u = .* a part of f is detached from u"),
        # f' by autograd is 2 - 2 / u, which is steeper than the true 1 - 1 / u^2
        ("forgetful_below_the_line", r"at u = .* a part of f is detached from u"),
        ("missing", "cannot be imported.*write it as module:function"),
        ("NOT_A_FUNCTION", "is a float, not a function"),
        ("summed", r"of 2001 ratios it made a tensor of shape \(\), in line"),
    ],
)
def test_what_is_no_convex_generator_is_rejected_at_the_point_where_it_fails(function, message):
    with pytest.raises(ValueError, match=message):
        own(function)


@pytest.mark.parametrize(
    ("function", "source"),
    [("of_numbers", "return scaled * math.log(u)"), ("detached", "def detached(u):")],
)
def test_what_does_not_differentiate_is_rejected_with_the_line_to_change(function, source):
    lines = inspect.getsource(own_generators).splitlines()
    number = next(i for i, line in enumerate(lines, 1) if line.strip() == source)
    place = f"line {number} of {re.escape(own_generators.__file__)}: {re.escape(source)}; compute"
    with pytest.raises(ValueError, match=f"cannot be differentiated: .*{place}"):
        own(function)


def test_a_module_that_does_not_exist_is_an_error():
    with pytest.raises(ValueError, match=r"'nowhere:f' cannot be imported: No module named"):
        divergence("nowhere:f")
