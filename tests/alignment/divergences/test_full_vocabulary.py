import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignment.divergences.full_vocabulary import STATE_DIVERGENCES, Teacher, state_divergences
from alignment.divergences.lookup import divergence
from tests.strategies import distributions

KINDS = [
    ("forward_kl", {}),
    ("reverse_kl", {}),
    ("jensen_shannon", {}),
    ("generalized_js", {"beta": 0.0}),
    ("generalized_js", {"beta": 0.1}),
    ("generalized_js", {"beta": 0.75}),
    ("generalized_js", {"beta": 1.0}),
    ("skew_forward_kl", {"skew": 0.1}),
    ("skew_reverse_kl", {"skew": 0.1}),
    ("skew_forward_kl", {"skew": 0.9}),
    ("total_variation", {}),
]
KIND = st.sampled_from(KINDS)


def kl(a, b):
    return (a * (a / b).log()).sum(-1)


def by_definition(p, q, name, beta=0.5, skew=0.0):
    m = beta * p + (1 - beta) * q
    match name:
        case "forward_kl" | "skew_forward_kl":
            return kl(p, skew * p + (1 - skew) * q)
        case "reverse_kl" | "skew_reverse_kl":
            return kl(q, skew * q + (1 - skew) * p)
        case "jensen_shannon":
            return kl(p, m) / 2 + kl(q, m) / 2
        case "generalized_js" if beta in {0.0, 1.0}:
            return kl(q, p) if beta else kl(p, q)
        case "generalized_js":
            return (beta * kl(p, m) + (1 - beta) * kl(q, m)) / (beta * (1 - beta))
        case "total_variation":
            return (p - q).abs().sum(-1) / 2


def between(teacher_logits, policy_logits, name, parameters, temperature=1.0, chunk=None):
    """Compare logits: states are logits if the head is the identity."""
    head = torch.eye(policy_logits.shape[1], dtype=policy_logits.dtype)
    teacher = Teacher(teacher_logits, head, name, parameters)
    return state_divergences(policy_logits, head, teacher, temperature, chunk)


def example(dtype=torch.float64):
    """Seven states; teacher and policy of different width."""
    rng = torch.Generator().manual_seed(0)
    shapes = ((7, 5), (11, 5), (7, 3), (11, 3))
    return [torch.randn(shape, generator=rng, dtype=dtype).requires_grad_() for shape in shapes]


def test_all_kinds_are_tested():
    assert {name for name, _ in KINDS} == set(STATE_DIVERGENCES)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk_logits", [1, 11 * 3, 11 * 7, 10**6])
@pytest.mark.parametrize(("name", "parameters"), KINDS)
def test_any_slicing_equals_the_formula_on_all_logits(name, parameters, chunk_logits, temperature):
    states, head, teacher_states, teacher_head = example()
    gradient = torch.linspace(-1.0, 2.0, 7, dtype=torch.float64)
    teacher = Teacher(teacher_states, teacher_head, name, parameters)
    values = state_divergences(states, head, teacher, temperature, chunk_logits)
    (values * gradient).sum().backward()
    by_states, by_head = states.grad, head.grad
    assert teacher_states.grad is None
    assert teacher_head.grad is None
    states.grad = head.grad = None
    p = (teacher_states @ teacher_head.T / temperature).detach().softmax(-1)
    q = (states @ head.T / temperature).softmax(-1)
    expected = by_definition(p, q, name, **parameters)
    (expected * gradient).sum().backward()
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(by_states, states.grad)
    torch.testing.assert_close(by_head, head.grad)


@given(kind=KIND, p=distributions(4), q=distributions(4))
def test_a_state_divergence_is_the_divergence_of_that_name(kind, p, q):
    name, parameters = kind
    value = between(p.log()[None], q.log()[None], name, parameters)
    exact = divergence(name, **parameters).value(p, q)
    torch.testing.assert_close(value[0], exact, atol=1e-10, rtol=1e-10)


def test_gradient_matches_finite_differences():
    states, head, teacher_states, teacher_head = example()
    teacher = Teacher(
        teacher_states.detach(), teacher_head.detach(), "generalized_js", {"beta": 0.3}
    )
    assert torch.autograd.gradcheck(
        lambda s, w: state_divergences(s, w, teacher, 0.8, 21), (states, head)
    )


@given(kind=KIND, q=distributions(5))
def test_policy_equal_to_teacher_is_the_minimum(kind, q):
    logits = q.log()[None].requires_grad_()
    value = between(logits.detach(), logits, *kind)
    torch.testing.assert_close(value, torch.zeros_like(value), atol=1e-14, rtol=0.0)
    (gradient,) = torch.autograd.grad(value, logits, torch.ones_like(value))
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-14, rtol=0.0)


# Of TRL's generalized Jensen-Shannon loss at its test's inputs, by beta: the mean over the batch of
# two, over the three labelled tokens, and over these at temperature 2.
GOLDEN = {
    0.0: (2.727015, 0.977336, 0.268614),
    0.1: (0.224121, 0.080217, 0.023763),
    0.25: (0.437469, 0.156686, 0.048758),
    0.5: (0.564872, 0.203007, 0.064789),
    0.75: (0.438475, 0.158759, 0.049677),
    0.9: (0.224142, 0.081988, 0.024522),
    1.0: (2.699794, 1.004163, 0.279999),
}


@pytest.mark.parametrize("beta", GOLDEN)
def test_golden_values_of_generalized_js(beta):
    rng = torch.Generator().manual_seed(42)
    policy, teacher = torch.randn(2, 3, 5, generator=rng), torch.randn(2, 3, 5, generator=rng)
    labels = torch.tensor([[-100, 1, 2], [-100, -100, 3]]).ravel()
    # TRL has no factor 1 / (beta (1 - beta)), except that it returns the KLs at the ends.
    scale = beta * (1 - beta) or 1.0

    def values(temperature):
        pair = teacher.view(6, 5), policy.view(6, 5)
        return scale * between(*pair, "generalized_js", {"beta": beta}, temperature)

    batch_mean, labelled, warm = GOLDEN[beta]
    assert values(1.0).sum().item() / 2 == pytest.approx(batch_mean, abs=6e-7)
    assert values(1.0)[labels != -100].mean().item() == pytest.approx(labelled, abs=6e-7)
    assert values(2.0)[labels != -100].mean().item() == pytest.approx(warm, abs=6e-7)


PAIRS = {
    "A": ((0.9, 0.1), (0.1, 0.9), (1.757780, 1.757780, 0.368064, 0.8, 1.238081, 1.238081)),
    "B": (
        (0.6, 0.3, 0.1),
        (0.2, 0.3, 0.5),
        (0.498224, 0.584996, 0.125101, 0.4, 0.397169, 0.430559),
    ),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_golden_values_of_two_pairs(pair):
    expert, policy, golden = PAIRS[pair]
    p, q = (torch.tensor([x], dtype=torch.float64).log() for x in (expert, policy))
    kinds = [
        *(("forward_kl", {}), ("reverse_kl", {}), ("jensen_shannon", {}), ("total_variation", {})),
        *(("skew_forward_kl", {"skew": 0.1}), ("skew_reverse_kl", {"skew": 0.1})),
    ]
    values = [between(p, q, *kind).item() for kind in kinds]
    assert values == pytest.approx(golden, abs=6e-7)


@pytest.mark.parametrize(("beta", "value"), [(0.1, 0.146311), (0.25, 0.285781), (0.5, 0.368064)])
def test_golden_values_of_generalized_js_of_a_pair(beta, value):
    p, q = (torch.tensor([x], dtype=torch.float64).log() for x in PAIRS["A"][:2])
    unscaled = beta * (1 - beta) * between(p, q, "generalized_js", {"beta": beta})
    assert unscaled.item() == pytest.approx(value, abs=6e-7)


@pytest.mark.parametrize(("end", "limit"), [(0.0, "forward_kl"), (1.0, "reverse_kl")])
@pytest.mark.parametrize("distance", [1e-2, 1e-4, 1e-6])
def test_generalized_js_goes_to_the_kls_even_in_float32(end, limit, distance):
    # Dividing the KL to a mixture by a weight of 1e-6 multiplies its rounding by a million.
    rng = torch.Generator().manual_seed(1)
    p, q = torch.randn(2, 6, 200, generator=rng)
    q.requires_grad_()
    near = between(p, q, "generalized_js", {"beta": abs(end - distance)})
    (gradient,) = torch.autograd.grad(near.sum(), q)
    exact = between(p, q, limit, {})
    (expected,) = torch.autograd.grad(exact.sum(), q)
    torch.testing.assert_close(near, exact, atol=5 * distance + 2e-5, rtol=0.0)
    torch.testing.assert_close(gradient, expected, atol=5 * distance + 2e-6, rtol=0.0)


@pytest.mark.parametrize(
    ("name", "parameters", "value"),
    [
        ("forward_kl", {}, 2e4),
        ("reverse_kl", {}, 2e4),
        ("jensen_shannon", {}, math.log(2)),
        # KL(p, m) = log 4 and KL(q, m) = log 4/3, each with its weight over 1/4 * 3/4
        ("generalized_js", {"beta": 0.25}, math.log(4) / 0.75 + math.log(4 / 3) / 0.25),
        ("skew_forward_kl", {"skew": 0.1}, math.log(10)),
        ("skew_reverse_kl", {"skew": 0.1}, math.log(10)),
        ("skew_forward_kl", {"skew": 0.0}, 2e4),
        ("total_variation", {}, 1.0),
    ],
)
def test_opposite_logits_of_ten_thousand_are_finite(name, parameters, value):
    teacher = torch.tensor([[1e4, -1e4], [-1e4, 1e4]])
    policy = (-teacher).requires_grad_()
    values = between(teacher, policy, name, parameters)
    assert values.tolist() == pytest.approx([value, value], rel=1e-6)
    (gradient,) = torch.autograd.grad(values.sum(), policy)
    # Forward KL still pulls with q - p; all the others are flat where the policy is certain, but
    # for reverse KL's q (log q/p - KL), which is 0 there too.
    is_forward = name == "forward_kl" or parameters.get("skew") == 0.0
    assert torch.equal(gradient, torch.sign(policy) if is_forward else torch.zeros(2, 2))


def test_autocast_rounds_the_products_only():
    inputs = example(torch.float32)
    states, head, teacher_states, teacher_head = inputs
    teacher = Teacher(teacher_states, teacher_head, "forward_kl", {})
    with torch.autocast("cpu", torch.bfloat16):
        values = state_divergences(states, head, teacher, 1.0)
    values.sum().backward()
    assert values.dtype == states.grad.dtype == head.grad.dtype == torch.float32
    rounded = [tensor.detach().bfloat16() for tensor in inputs]
    p, q = ((x @ w.T).float().softmax(-1) for x, w in (rounded[2:], rounded[:2]))
    torch.testing.assert_close(values, kl(p, q), atol=1e-6, rtol=1e-5)
    by_logit = (q - p).bfloat16()
    torch.testing.assert_close(states.grad, (by_logit @ rounded[1]).float(), atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(head.grad, (by_logit.T @ rounded[0]).float(), atol=2e-2, rtol=2e-2)


def test_no_states_have_no_divergences():
    empty, head = torch.zeros(0, 3), torch.eye(3)
    teacher = Teacher(empty, head, "forward_kl", {})
    assert state_divergences(empty, head, teacher, 1.0).tolist() == []


@pytest.mark.parametrize("name", ["pearson_chi2", "fairl", "wasserstein", "mine:f"])
def test_what_is_no_divergence_at_a_state_is_refused_with_those_that_are(name):
    logits = torch.zeros(1, 2)
    with pytest.raises(ValueError, match=f"'{name}' is not defined at level state.*forward_kl"):
        between(logits, logits, name, {})


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("forward_kl", {"beta": 0.5}, "forward_kl takes no parameter; got {'beta': 0.5}"),
        ("generalized_js", {}, "generalized_js takes beta; got {}"),
        ("skew_reverse_kl", {"skew": 1.5}, r"skew of skew_reverse_kl must lie in .*; got 1.5"),
        ("generalized_js", {"beta": -0.1}, r"beta of generalized_js must lie in .*; got -0.1"),
    ],
)
def test_a_wrong_parameter_is_an_error(name, parameters, message):
    logits = torch.zeros(1, 2)
    with pytest.raises(ValueError, match=message):
        between(logits, logits, name, parameters)


def test_temperature_must_be_positive():
    logits = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="temperature must be positive; got 0"):
        between(logits, logits, "forward_kl", {}, temperature=0.0)
