import pytest
import torch
from hypothesis import given

from alignment.studies.response_table import (
    enumerate_responses,
    tabular_action_logprobs,
    tabular_response_logprobs,
)
from tests.strategies import TABLE, policy_tables


def test_all_responses_of_a_tiny_table():
    table = enumerate_responses(num_tokens=2, end_token=1, max_response_tokens=2)
    assert table.prefixes == ((), (0,))
    assert table.responses == ((1,), (0, 1), (0, 0))
    assert table.prefix_index.tolist() == [0, 0, 1, 0, 1]
    assert table.tokens.tolist() == [1, 0, 1, 0, 0]
    assert table.sequence_index.tolist() == [0, 1, 1, 2, 2]


def test_hand_computed_response_probabilities():
    table = enumerate_responses(num_tokens=2, end_token=1, max_response_tokens=2)
    # Ends with 1/4 at once, else with 2/5
    logits = torch.tensor([[0.75, 0.25], [0.6, 0.4]], dtype=torch.float64).log()
    torch.testing.assert_close(
        tabular_response_logprobs(logits, table).exp(),
        torch.tensor([0.25, 0.75 * 0.4, 0.75 * 0.6], dtype=torch.float64),
    )
    assert tabular_action_logprobs(logits, table)[2].exp().item() == pytest.approx(0.4)


@pytest.mark.parametrize(("num_tokens", "length", "responses"), [(3, 3, 15), (4, 4, 121)])
def test_every_response_is_there_once(num_tokens, length, responses):
    table = enumerate_responses(num_tokens, 0, length)
    # (V-1)^0 + .. + (V-1)^(L-1) ended ones and (V-1)^L full ones
    assert len(set(table.responses)) == len(table.responses) == responses


@given(logits=policy_tables(sharpness=5.0))
def test_probabilities_sum_to_one(logits):
    assert tabular_response_logprobs(logits, TABLE).exp().sum().item() == pytest.approx(1.0)
