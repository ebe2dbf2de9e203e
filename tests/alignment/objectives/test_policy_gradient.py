import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignment.objectives.policy_gradient import CLIP_RANGE, policy_gradient
from tests.strategies import flat_batches, floats64

LEVELS = ("none", "token", "sequence", "clip")


@pytest.mark.parametrize(
    ("importance", "weights"),
    [("none", [1.0, 1.0, 1.0]), ("token", [2.0, 0.5, 1.0]), ("sequence", [1.5, 1.5, 1.0])],
)
def test_hand_computed_loss_and_gradient(importance, weights):
    # Ratios 3 and 1/2 in sequence 0, 1 in sequence 1; advantages 1, 2 and -3; two sequences.
    policy = torch.tensor([math.log(0.6), math.log(0.2), math.log(0.5)], requires_grad=True)
    behavior = torch.tensor([math.log(0.2), math.log(0.4), math.log(0.5)], requires_grad=True)
    advantages = torch.tensor([1.0, 2.0, -3.0], requires_grad=True)
    out = policy_gradient(
        policy,
        behavior,
        advantages,
        torch.tensor([0, 0, 1]),
        importance=importance,
        max_mean_log_ratio=None,
        num_sequences=2,
    )
    factors = torch.tensor(weights) * torch.tensor([1.0, 2.0, -3.0])
    terms = factors * torch.tensor([math.log(0.6), math.log(0.2), math.log(0.5)])
    torch.testing.assert_close(out.loss, -terms.sum() / 2)
    out.loss.backward()
    torch.testing.assert_close(policy.grad, -factors / 2)
    assert behavior.grad is None
    assert advantages.grad is None
    assert not any(figure.requires_grad for figure in out.diagnostics.values())


def clipped_step(ratios, advantages, index, limit=None):
    """Loss, gradient by the log-probabilities and diagnostics of one step with PPO's clipping."""
    policy = torch.tensor(ratios, dtype=torch.float64).log().requires_grad_()
    out = policy_gradient(
        policy,
        torch.zeros(len(ratios), dtype=torch.float64),
        torch.tensor(advantages, dtype=torch.float64),
        torch.tensor(index),
        importance="clip",
        max_mean_log_ratio=limit,
        num_sequences=2,
    )
    out.loss.backward()
    return out.loss.item(), policy.grad, out.diagnostics


def test_hand_computed_clipping():
    # Ratio above, below and within the range, each with a positive and a negative advantage: only
    # a move that has already gone far enough in its advantage's direction gets no gradient.
    ratios, advantages = [1.5, 1.5, 0.5, 0.5, 1.1, 1.1], [2.0, -2.0, 2.0, -2.0, 2.0, -2.0]
    loss, gradient, diagnostics = clipped_step(ratios, advantages, [0, 0, 0, 1, 1, 1])
    surrogate = [1.2 * 2.0, -1.5 * 2.0, 0.5 * 2.0, -0.8 * 2.0, 1.1 * 2.0, -1.1 * 2.0]
    assert CLIP_RANGE == 0.2
    assert loss == pytest.approx(-sum(surrogate) / 2)
    expected = torch.tensor([0.0, 3.0, -1.0, 0.0, -2.2, 2.2], dtype=torch.float64) / 2
    torch.testing.assert_close(gradient, expected)
    assert diagnostics["clip_fraction"].item() == pytest.approx((1 / 3 + 1 / 3) / 2)
    assert not diagnostics["clip_fraction"].requires_grad


def test_a_rejected_sequence_adds_nothing_even_if_its_ratio_is_infinite():
    loss, gradient, diagnostics = clipped_step(
        [math.inf, 1.0, 1.1], [-1.0, 3.0, 1.0], [0, 0, 1], 5.0
    )
    assert loss == pytest.approx(-1.1 / 2)
    torch.testing.assert_close(gradient, torch.tensor([0.0, 0.0, -1.1 / 2], dtype=torch.float64))
    assert diagnostics["rejected_sequences"].item() == 1.0


@given(batch=flat_batches(), data=st.data(), level=st.sampled_from(LEVELS))
def test_rejected_sequences_are_as_if_they_had_not_been_there(batch, data, level):
    index, logprobs, behavior = batch
    advantages = data.draw(floats64(len(index)))
    means = torch.stack([(logprobs - behavior)[index == i].mean() for i in index]).abs()
    # A mean may be the limit itself, where rounding would decide
    limit = max(data.draw(st.sampled_from(means.tolist())), 1e-6) * (1 + 1e-9)
    kept = means <= limit

    def step(rows, limit):
        leaf = logprobs.clone().requires_grad_()
        _, packed = index[rows].unique(return_inverse=True)
        out = policy_gradient(
            leaf[rows],
            behavior[rows],
            advantages[rows],
            packed,
            importance=level,
            max_mean_log_ratio=limit,
            num_sequences=5,
        )
        return torch.autograd.grad(out.loss, leaf)[0]

    torch.testing.assert_close(step(index >= 0, limit), step(kept, None))


@given(batch=flat_batches(), data=st.data(), level=st.sampled_from(LEVELS))
def test_on_policy_the_gradient_is_reinforce(batch, data, level):
    index, logprobs, _ = batch
    num = int(index.max()) + 1
    advantages = data.draw(floats64(len(index)))
    policy = logprobs.clone().requires_grad_()
    out = policy_gradient(
        policy,
        logprobs,
        advantages,
        index,
        importance=level,
        max_mean_log_ratio=None,
        num_sequences=num,
    )
    out.loss.backward()
    torch.testing.assert_close(policy.grad, -advantages / num)


@given(batch=flat_batches(), split=st.integers(0, 6), data=st.data(), level=st.sampled_from(LEVELS))
def test_shards_sum_to_the_whole_step(batch, split, data, level):
    index, logprobs, behavior = batch
    num = int(index.max()) + 1
    advantages = data.draw(floats64(len(index)))

    def share(rows, first):
        leaf = logprobs[rows].clone().requires_grad_()
        out = policy_gradient(
            leaf,
            behavior[rows],
            advantages[rows],
            index[rows] - first,
            importance=level,
            max_mean_log_ratio=0.3,
            num_sequences=num,
        )
        out.loss.backward()
        return out, leaf.grad

    whole, gradient = share(index >= 0, 0)
    left, left_gradient = share(index < split, 0)
    right, right_gradient = share(index >= split, split)
    torch.testing.assert_close(left.loss + right.loss, whole.loss)
    torch.testing.assert_close(torch.cat([left_gradient, right_gradient]), gradient)
    for name, figure in whole.diagnostics.items():
        summed = left.diagnostics[name] + right.diagnostics[name]
        torch.testing.assert_close(summed, figure)


def test_an_empty_step_is_an_error():
    zeros = torch.zeros(1)
    with pytest.raises(ValueError, match="num_sequences must be positive, got 0"):
        policy_gradient(
            zeros,
            zeros,
            zeros,
            torch.tensor([0]),
            importance="token",
            max_mean_log_ratio=None,
            num_sequences=0,
        )


@pytest.mark.parametrize("name", ["behavior_logprobs", "advantages"])
def test_one_number_for_each_action_is_needed(name):
    arguments = {"behavior_logprobs": torch.zeros(2), "advantages": torch.zeros(2)}
    with pytest.raises(Exception, match=name):
        policy_gradient(
            torch.zeros(2),
            **(arguments | {name: torch.zeros(1)}),
            sequence_index=torch.tensor([0, 0]),
            importance="token",
            max_mean_log_ratio=None,
            num_sequences=1,
        )
