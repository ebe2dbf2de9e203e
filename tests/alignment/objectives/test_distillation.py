import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignment.divergences.full_vocabulary import Teacher, state_divergences
from alignment.mdp.segments import sequence_sums
from alignment.objectives.distillation import distillation
from alignment.studies.response_table import tabular_action_logprobs, tabular_response_logprobs
from tests.strategies import TABLE, flat_batches, policy_tables

NUM_RESPONSES = len(TABLE.responses)


def at_states(teacher, policy, name, rows=TABLE.prefix_index):
    """Divergence in the state of each action: a state is its row of a tabular policy's logits."""
    head = torch.eye(3, dtype=torch.float64)
    return state_divergences(policy[rows], head, Teacher(teacher[rows], head, name, {}), 1.0)


def sums(values):
    return sequence_sums(values, TABLE.sequence_index, NUM_RESPONSES)


def gradient(loss, policy):
    return torch.autograd.grad(loss, policy)[0]


def test_hand_computed_value():
    # Two responses with divergences {1, 2} and {6}: (3 + 6) / 2 a response, 9 / 3 a token.
    divergences = torch.tensor([1.0, 2.0, 6.0], requires_grad=True)
    out = distillation(divergences, num_sequences=2, num_action_tokens=3)
    assert out.loss.item() == 4.5
    assert out.diagnostics["state_divergence"].item() == 3.0
    assert not out.diagnostics["state_divergence"].requires_grad
    out.loss.backward()
    assert divergences.grad.tolist() == [0.5, 0.5, 0.5]


@given(batch=flat_batches(), split=st.integers(0, 6))
def test_shards_sum_to_the_whole_step(batch, split):
    index, divergences, _ = batch
    counts = {"num_sequences": int(index.max()) + 1, "num_action_tokens": len(index)}
    whole, left, right = (
        distillation(divergences[rows], **counts)
        for rows in (index >= 0, index < split, index >= split)
    )
    torch.testing.assert_close(left.loss + right.loss, whole.loss)
    torch.testing.assert_close(
        left.diagnostics["state_divergence"] + right.diagnostics["state_divergence"],
        whole.diagnostics["state_divergence"],
    )


@given(counts=st.lists(st.integers(1, 9), min_size=15, max_size=15), policy=policy_tables())
def test_forward_kl_on_demonstrations_is_the_forward_kl_of_whole_responses(counts, policy):
    # A batch with each response as often as the teacher would say it stands for the expectation.
    policy.requires_grad_()
    p = torch.tensor(counts, dtype=torch.float64) / sum(counts)
    chosen = torch.zeros(len(TABLE.prefixes), 3, dtype=torch.float64)
    chosen.index_put_((TABLE.prefix_index, TABLE.tokens), p[TABLE.sequence_index], accumulate=True)
    actions = torch.cat(
        [
            torch.nonzero(TABLE.sequence_index == response).ravel().repeat(count)
            for response, count in enumerate(counts)
        ]
    )
    divergences = at_states(chosen.log(), policy, "forward_kl", TABLE.prefix_index[actions])
    loss = distillation(divergences, num_sequences=sum(counts), num_action_tokens=len(actions)).loss
    exact = (p * (p.log() - tabular_response_logprobs(policy, TABLE))).sum()
    torch.testing.assert_close(loss, exact, atol=1e-12, rtol=0.0)
    torch.testing.assert_close(
        gradient(loss, policy), gradient(exact, policy), atol=1e-12, rtol=0.0
    )


def expected_loss(teacher, policy):
    """Reverse KL on the policy's own states: the mean of distillation over its responses."""
    divergences = at_states(teacher, policy, "reverse_kl")
    losses = [
        distillation(
            divergences[TABLE.sequence_index == response], num_sequences=1, num_action_tokens=1
        ).loss
        for response in range(NUM_RESPONSES)
    ]
    return tabular_response_logprobs(policy, TABLE).exp().detach() @ torch.stack(losses)


def expected_return_to_go(teacher, policy):
    """The price of each token is what its response's later states cost, taken as constant."""
    divergences = at_states(teacher, policy, "reverse_kl").detach()
    until = torch.cumsum(divergences, 0)
    ends = torch.cumsum(torch.bincount(TABLE.sequence_index), 0) - 1
    later = until[ends][TABLE.sequence_index] - until
    q = tabular_response_logprobs(policy, TABLE).exp().detach()
    return q @ sums(later * tabular_action_logprobs(policy, TABLE))


@given(teacher=policy_tables(), policy=policy_tables())
def test_own_state_reverse_kl_with_return_to_go_is_the_reverse_kl_of_whole_responses(
    teacher, policy
):
    policy.requires_grad_()
    logprobs = tabular_response_logprobs(policy, TABLE)
    exact = (logprobs.exp() * (logprobs - tabular_response_logprobs(teacher, TABLE))).sum()
    immediate = expected_loss(teacher, policy)
    torch.testing.assert_close(immediate, exact, atol=1e-12, rtol=0.0)  # values agree as they are
    whole = gradient(immediate + expected_return_to_go(teacher, policy), policy)
    torch.testing.assert_close(whole, gradient(exact, policy), atol=1e-12, rtol=0.0)


def test_own_state_reverse_kl_alone_is_not():
    rng = torch.Generator().manual_seed(0)
    shape = (2, len(TABLE.prefixes), 3)
    teacher, policy = torch.randn(shape, generator=rng, dtype=torch.float64)
    policy.requires_grad_()
    logprobs = tabular_response_logprobs(policy, TABLE)
    exact = (logprobs.exp() * (logprobs - tabular_response_logprobs(teacher, TABLE))).sum()
    alone, whole = (gradient(loss, policy) for loss in (expected_loss(teacher, policy), exact))
    cosine = torch.cosine_similarity(alone.ravel(), whole.ravel(), dim=0)
    assert cosine < 0.99
    # After a state on which nothing more depends, at the last token, the two agree.
    last = torch.tensor([len(prefix) == 2 for prefix in TABLE.prefixes])
    torch.testing.assert_close(alone[last], whole[last])


@pytest.mark.parametrize("count", ["num_sequences", "num_action_tokens"])
def test_an_empty_step_is_an_error(count):
    counts = {"num_sequences": 1, "num_action_tokens": 1, count: 0}
    with pytest.raises(ValueError, match=f"{count} must be positive, got 0"):
        distillation(torch.zeros(1), **counts)
