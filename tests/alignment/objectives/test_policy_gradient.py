import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignment.objectives.policy_gradient import policy_gradient
from tests.strategies import flat_batches, floats64

LEVELS = ("none", "token", "sequence")


@pytest.mark.parametrize(
    ("importance", "weights"),
    [("none", [1.0, 1.0, 1.0]), ("token", [2.0, 0.5, 1.0]), ("sequence", [1.5, 1.5, 1.0])],
)
def test_hand_computed_loss_and_gradient(importance, weights):
    # Ratios 3 and 1/2 in sequence 0, 1 in sequence 1; advantages 1 and -3; two sequences.
    policy = torch.tensor([math.log(0.6), math.log(0.2), math.log(0.5)], requires_grad=True)
    behavior = torch.tensor([math.log(0.2), math.log(0.4), math.log(0.5)], requires_grad=True)
    advantages = torch.tensor([1.0, -3.0], requires_grad=True)
    out = policy_gradient(
        policy,
        behavior,
        advantages,
        torch.tensor([0, 0, 1]),
        importance=importance,
        num_sequences=2,
    )
    w = torch.tensor(weights)
    terms = torch.stack([w[0] * math.log(0.6), w[1] * math.log(0.2), -3.0 * w[2] * math.log(0.5)])
    torch.testing.assert_close(out.loss, -terms.sum() / 2)
    out.loss.backward()
    torch.testing.assert_close(policy.grad, torch.tensor([-w[0], -w[1], 3.0 * w[2]]) / 2)
    assert behavior.grad is None
    assert advantages.grad is None
    assert not any(figure.requires_grad for figure in out.diagnostics.values())


@given(batch=flat_batches(), data=st.data(), level=st.sampled_from(LEVELS))
def test_on_policy_the_gradient_is_reinforce(batch, data, level):
    index, logprobs, _ = batch
    num = int(index.max()) + 1
    advantages = data.draw(floats64(num))
    policy = logprobs.clone().requires_grad_()
    out = policy_gradient(policy, logprobs, advantages, index, importance=level, num_sequences=num)
    out.loss.backward()
    torch.testing.assert_close(policy.grad, -advantages[index] / num)


@given(batch=flat_batches(), split=st.integers(0, 6), data=st.data(), level=st.sampled_from(LEVELS))
def test_shards_sum_to_the_whole_step(batch, split, data, level):
    index, logprobs, behavior = batch
    num = int(index.max()) + 1
    advantages = data.draw(floats64(num))

    def share(rows, sequences, first):
        leaf = logprobs[rows].clone().requires_grad_()
        out = policy_gradient(
            leaf,
            behavior[rows],
            advantages[sequences],
            index[rows] - first,
            importance=level,
            num_sequences=num,
        )
        out.loss.backward()
        return out, leaf.grad

    whole, gradient = share(index >= 0, slice(None), 0)
    left, left_gradient = share(index < split, slice(None, split), 0)
    right, right_gradient = share(index >= split, slice(split, None), split)
    torch.testing.assert_close(left.loss + right.loss, whole.loss)
    torch.testing.assert_close(torch.cat([left_gradient, right_gradient]), gradient)
    for name, figure in whole.diagnostics.items():
        summed = left.diagnostics[name] + right.diagnostics[name]
        torch.testing.assert_close(summed, figure)


def test_an_empty_step_is_an_error():
    zeros = torch.zeros(1)
    with pytest.raises(ValueError, match="num_sequences must be positive, got 0"):
        policy_gradient(zeros, zeros, zeros, torch.tensor([0]), importance="token", num_sequences=0)


def test_too_few_behavior_logprobs_are_an_error():
    with pytest.raises(Exception, match="behavior_logprobs"):
        policy_gradient(
            torch.zeros(2),
            torch.zeros(1),
            torch.zeros(1),
            torch.tensor([0, 0]),
            importance="token",
            num_sequences=1,
        )
