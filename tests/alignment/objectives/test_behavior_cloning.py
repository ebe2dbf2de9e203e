import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignment.divergences.lookup import divergence
from alignment.objectives.behavior_cloning import behavior_cloning
from alignment.studies.response_table import tabular_action_logprobs, tabular_response_logprobs
from tests.strategies import TABLE, flat_batches, policy_tables

REDUCTIONS = ("sum_per_sequence", "token_mean", "sequence_mean")


@pytest.mark.parametrize(
    ("reduction", "loss"),
    # Sequences of nats {1, 3} and {5}: sums 4 and 5, means 2 and 5.
    [("sum_per_sequence", 9 / 2), ("token_mean", 9 / 3), ("sequence_mean", 7 / 2)],
)
def test_hand_computed_value(reduction, loss):
    logprobs = torch.tensor([-1.0, -3.0, -5.0], requires_grad=True)
    out = behavior_cloning(
        logprobs,
        torch.tensor([0, 0, 1]),
        reduction=reduction,
        num_sequences=2,
        num_action_tokens=3,
    )
    assert out.loss.item() == pytest.approx(loss)
    assert out.diagnostics["nll_per_token"].item() == pytest.approx(3.0)
    assert out.diagnostics["nll_per_sequence"].item() == pytest.approx(4.5)
    assert not any(figure.requires_grad for figure in out.diagnostics.values())


@given(counts=st.lists(st.integers(1, 9), min_size=15, max_size=15), policy=policy_tables())
def test_sum_per_sequence_is_the_forward_kl(counts, policy):
    # A batch with each response as often as an expert would say it stands for the expectation.
    policy.requires_grad_()
    demonstrations = [i for i, count in enumerate(counts) for _ in range(count)]
    p = torch.tensor(counts) / torch.tensor(counts, dtype=torch.float64).sum()
    rows = [torch.nonzero(TABLE.sequence_index == i).ravel() for i in demonstrations]
    index = torch.arange(len(rows)).repeat_interleave(torch.tensor([len(row) for row in rows]))
    loss = behavior_cloning(
        tabular_action_logprobs(policy, TABLE)[torch.cat(rows)],
        index,
        reduction="sum_per_sequence",
        num_sequences=len(rows),
        num_action_tokens=len(index),
    ).loss
    entropy = -(p * p.log()).sum()
    exact = divergence("forward_kl").value(p, tabular_response_logprobs(policy, TABLE).exp())
    torch.testing.assert_close(loss - entropy, exact, atol=1e-12, rtol=0.0)
    (cloning,) = torch.autograd.grad(loss, policy)
    (forward_kl,) = torch.autograd.grad(exact, policy)
    torch.testing.assert_close(cloning, forward_kl, atol=1e-12, rtol=0.0)


@given(batch=flat_batches(), split=st.integers(0, 6), reduction=st.sampled_from(REDUCTIONS))
def test_shards_sum_to_the_whole_step(batch, split, reduction):
    index, logprobs, _ = batch
    counts = {"num_sequences": int(index.max()) + 1, "num_action_tokens": len(index)}

    def share(rows, first):
        leaf = logprobs[rows].clone().requires_grad_()
        out = behavior_cloning(leaf, index[rows] - first, reduction=reduction, **counts)
        out.loss.backward()
        return out, leaf.grad

    whole, gradient = share(index >= 0, 0)
    left, left_gradient = share(index < split, 0)
    right, right_gradient = share(index >= split, split)
    torch.testing.assert_close(left.loss + right.loss, whole.loss)
    torch.testing.assert_close(torch.cat([left_gradient, right_gradient]), gradient)
    for name, figure in whole.diagnostics.items():
        torch.testing.assert_close(left.diagnostics[name] + right.diagnostics[name], figure)


@pytest.mark.parametrize("count", ["num_sequences", "num_action_tokens"])
def test_an_empty_step_is_an_error(count):
    counts = {"num_sequences": 1, "num_action_tokens": 1, count: 0}
    with pytest.raises(ValueError, match=f"{count} must be positive, got 0"):
        behavior_cloning(
            torch.zeros(1), torch.zeros(1, dtype=torch.int64), reduction="token_mean", **counts
        )


def test_an_index_that_does_not_match_the_actions_is_an_error():
    with pytest.raises(Exception, match="sequence_index"):
        behavior_cloning(
            torch.zeros(3),
            torch.zeros(2, dtype=torch.int64),
            reduction="token_mean",
            num_sequences=1,
            num_action_tokens=3,
        )
