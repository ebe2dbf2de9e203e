import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from alignment.discriminator import discriminator_loss, gradient_penalty, length_slope

probability = st.floats(0.05, 0.95)


def kl(p, q):
    return float((p * (p / q).log()).sum())


def frequencies(count, total):
    return torch.tensor([count, total - count], dtype=torch.float64) / total


def loss_of_distributions(logits, expert, policy, smoothing):
    """The expected loss: each response enters as often as its probability says."""
    total = 1000
    index_expert = torch.repeat_interleave(torch.arange(2), (expert * total).round().long())
    index_policy = torch.repeat_interleave(torch.arange(2), (policy * total).round().long())
    return discriminator_loss(
        logits[index_expert],
        logits[index_policy],
        num_expert=total,
        num_policy=total,
        label_smoothing=smoothing,
    )


def test_hand_computed_value_with_smoothing():
    # D = 3/4 on the demonstration, 1/4 and 1/2 on the policy's responses; s = 0.1.
    expert = torch.tensor([math.log(3.0)], dtype=torch.float64)
    policy = torch.tensor([-math.log(3.0), 0.0], dtype=torch.float64)
    loss = discriminator_loss(expert, policy, num_expert=1, num_policy=2, label_smoothing=0.1)
    expert_loss = -0.9 * math.log(3 / 4) - 0.1 * math.log(1 / 4)
    policy_loss = (-0.9 * math.log(3 / 4) - 0.1 * math.log(1 / 4) + math.log(2)) / 2
    assert math.isclose(loss.item(), expert_loss + policy_loss, rel_tol=1e-12)


@settings(deadline=None)  # the first example starts autograd
@given(expert=probability, policy=probability)
def test_optimal_loss_is_jensen_shannon(expert, policy):
    # Two responses; 1000 draws with exactly these frequencies stand for the expectation.
    p, q = frequencies(round(expert * 1000), 1000), frequencies(round(policy * 1000), 1000)
    mean = (p + q) / 2
    jensen_shannon = (kl(p, mean) + kl(q, mean)) / 2
    loss = loss_of_distributions(p.log() - q.log(), p, q, smoothing=0.0)
    assert math.isclose(loss.item(), 2 * math.log(2) - 2 * jensen_shannon, abs_tol=1e-9)


@settings(deadline=None)  # the first example starts autograd
@given(expert=probability, policy=probability, smoothing=st.floats(0.01, 0.4))
def test_smoothed_optimum_is_stationary_and_below_its_bound(expert, policy, smoothing):
    p, q = frequencies(round(expert * 1000), 1000), frequencies(round(policy * 1000), 1000)
    u = p / q
    logits = (((1 - smoothing) * u + smoothing) / (smoothing * u + 1 - smoothing)).log()
    assert bool((logits.abs() < math.log((1 - smoothing) / smoothing)).all())
    logits.requires_grad_()
    loss_of_distributions(logits, p, q, smoothing).backward()
    torch.testing.assert_close(logits.grad, torch.zeros(2, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("smoothing", [0.05, 0.2])
def test_a_response_of_the_expert_alone_stops_at_the_smoothing_bound(smoothing):
    # The policy never gives this response, so without smoothing its logit would grow for ever.
    bound = torch.tensor([math.log((1 - smoothing) / smoothing)], dtype=torch.float64)
    logit = bound.clone().requires_grad_()
    nothing = torch.zeros(0, dtype=torch.float64)
    discriminator_loss(
        logit, nothing, num_expert=1, num_policy=1, label_smoothing=smoothing
    ).backward()
    assert abs(logit.grad.item()) < 1e-12


def test_descent_on_a_table_finds_the_log_ratio_whatever_the_class_counts_are():
    # Four responses; three demonstrations in 10 but 8 times as many rollouts: no log(1/8) offset.
    p = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    q = torch.tensor([0.4, 0.1, 0.2, 0.3], dtype=torch.float64)
    expert = torch.repeat_interleave(torch.arange(4), (10 * p).round().long())
    policy = torch.repeat_interleave(torch.arange(4), (80 * q).round().long())
    table = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([table], max_iter=100, tolerance_grad=1e-12, tolerance_change=0)

    def closure():
        optimizer.zero_grad()
        loss = discriminator_loss(
            table[expert], table[policy], num_expert=10, num_policy=80, label_smoothing=0.0
        )
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(table.detach(), (p / q).log(), atol=1e-8, rtol=0)


@settings(deadline=None)  # the first example starts autograd
@given(split=st.integers(0, 6), repeats=st.integers(1, 5), seed=st.integers(0, 2**16))
def test_microbatches_sum_to_the_step_and_repeating_a_class_changes_nothing(split, repeats, seed):
    rng = torch.Generator().manual_seed(seed)
    expert, policy = torch.randn(2, 6, generator=rng, dtype=torch.float64)
    counts = {"num_expert": 6, "num_policy": 6, "label_smoothing": 0.1}
    whole = discriminator_loss(expert, policy, **counts)
    parts = discriminator_loss(expert[:split], policy[split:], **counts)
    parts = parts + discriminator_loss(expert[split:], policy[:split], **counts)
    torch.testing.assert_close(parts, whole)
    counts["num_policy"] = 6 * repeats
    torch.testing.assert_close(discriminator_loss(expert, policy.repeat(repeats), **counts), whole)


def test_exchanging_the_classes_mirrors_the_logit():
    expert, policy = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    counts = {"num_expert": 5, "num_policy": 5, "label_smoothing": 0.1}
    torch.testing.assert_close(
        discriminator_loss(expert, policy, **counts),
        discriminator_loss(-policy, -expert, **counts),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_expert": 0}, "must be positive"),
        ({"num_policy": 0}, "must be positive"),
        ({"label_smoothing": 0.5}, "label_smoothing"),
    ],
)
def test_a_missing_class_or_a_meaningless_smoothing_is_an_error(change, message):
    settings = {"num_expert": 1, "num_policy": 1, "label_smoothing": 0.0} | change
    with pytest.raises(ValueError, match=message):
        discriminator_loss(torch.zeros(1), torch.zeros(1), **settings)


def test_gradient_penalty_of_a_linear_logit_is_its_weight_squared():
    # logit = w . sum of a sequence's embeddings: each token's gradient is w, |w|^2 = 1 + 4 = 5.
    weight = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    embeddings = torch.ones(5, 2, dtype=torch.float64, requires_grad=True)
    logits = torch.stack([embeddings[1:3].sum(0) @ weight, embeddings[3:].sum(0) @ weight])
    # The prompt, token 0, is shared and weighs nothing; one demonstration, two rollouts.
    token_weights = torch.tensor([0.0, 1.0, 1.0, 0.5, 0.5], dtype=torch.float64)
    penalty = gradient_penalty(logits, embeddings, token_weights)
    assert math.isclose(penalty.item(), 2 * 5 + 2 * 5 / 2)
    penalty.backward()
    torch.testing.assert_close(weight.grad, 3 * 2 * weight.detach())  # d |w|^2 = 2 w, three times


def test_gradient_penalty_matches_finite_differences_through_a_network():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    embeddings = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([1.0, 0.25], dtype=torch.float64)
    penalty = gradient_penalty(network(embeddings).squeeze(-1), embeddings, weights)
    expected, step = 0.0, 1e-6
    for row in range(2):
        for column in range(3):
            shift = torch.zeros(2, 3, dtype=torch.float64)
            shift[row, column] = step
            up, down = network(embeddings + shift), network(embeddings - shift)
            slope = (up - down)[row].item() / (2 * step)
            expected += weights[row].item() * slope**2
    assert math.isclose(penalty.item(), expected, rel_tol=1e-6)


def test_length_slope_is_that_of_the_line():
    lengths = torch.tensor([1, 3, 4, 8])
    # Lengths less their mean are (-3, -1, 0, 4), to which these residuals are orthogonal.
    residuals = torch.tensor([4.0, 0.0, -1.0, 3.0])
    slope = length_slope(0.25 * lengths + 2.0 + residuals, lengths)
    assert math.isclose(slope, 0.25)
    assert length_slope(torch.tensor([1.0, 2.0]), torch.tensor([5, 5])) == 0.0
