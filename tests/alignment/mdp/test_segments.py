import pytest
import torch
from hypothesis import given

from alignment.mdp.segments import require_positive, sequence_lengths, sequence_sums
from tests.strategies import flat_batches


def test_hand_computed_sums_also_out_of_order_and_of_nothing():
    values = torch.tensor([1.0, 2.0, 4.0, 8.0])
    index = torch.tensor([2, 0, 2, 0], dtype=torch.int32)
    assert sequence_sums(values, index, 4).tolist() == [10.0, 0.0, 5.0, 0.0]
    assert sequence_lengths(index).tolist() == [2, 2, 2, 2]


@given(batch=flat_batches())
def test_sums_equal_a_plain_loop_and_pass_the_gradient_on(batch):
    index, values, factors = batch
    values.requires_grad_()
    sums = sequence_sums(values, index, int(index.max()) + 1)
    for sequence in range(len(sums)):
        torch.testing.assert_close(sums[sequence], values[index == sequence].sum())
    (sums * factors[: len(sums)]).sum().backward()
    torch.testing.assert_close(values.grad, factors[: len(sums)][index])


def test_an_index_beyond_the_sequences_is_an_error():
    with pytest.raises((IndexError, RuntimeError), match=r"index|range"):
        sequence_sums(torch.ones(1), torch.tensor([3]), 2)


def test_counts_must_be_positive():
    require_positive(num_sequences=1, num_action_tokens=5)
    with pytest.raises(ValueError, match="num_action_tokens must be positive, got -1"):
        require_positive(num_sequences=1, num_action_tokens=-1)
