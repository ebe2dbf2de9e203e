"""The objective on enumerated responses; what its implied rewards are is theorem 11."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignment.objectives.behavior_cloning import behavior_cloning
from alignment.objectives.inverse_q import inverse_q
from alignment.studies.response_table import tabular_action_logprobs
from tests.strategies import TABLE, flat_batches, policy_tables
from tests.theorems.tabular import EXACT, NUM, probabilities


def objective(logprobs, normalizers, index, **changes):
    counts = {"num_sequences": len(index.unique()), "num_action_tokens": len(index)}
    return inverse_q(logprobs, normalizers, index, **({"td_weight": 2.0} | counts | changes))


def test_hand_computed_value():
    logprobs = torch.tensor([-1.0, -2.0, -0.5], dtype=torch.float64).requires_grad_()
    normalizers = torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64).requires_grad_()
    out = objective(logprobs, normalizers, torch.tensor([0, 0, 1]))
    # Q - V' is 2 - 1, -1 - 0 and 1.5 - 0; nll 3.5; squares 1 + 1 + 2.25
    assert out.loss.item() == pytest.approx((3.5 + 0.5 * 4.25) / 2.0)
    assert out.diagnostics["nll_per_token"].item() == pytest.approx(3.5 / 3.0)
    assert out.diagnostics["nll_per_sequence"].item() == 1.75
    assert out.diagnostics["td_error"].item() == pytest.approx(4.25 / 3.0)
    assert out.diagnostics["implied_return"].item() == 0.75  # (-3 + 3 - 0.5 + 2) / 2
    assert not any(figure.requires_grad for figure in out.diagnostics.values())
    out.loss.backward()
    # -1 + r for a log-probability; r, less the r before it, for a normalizer; halved
    assert logprobs.grad.tolist() == [0.0, -1.0, 0.25]
    assert normalizers.grad.tolist() == [0.5, -1.0, 0.75]


@given(soft_q=policy_tables(), expert=policy_tables(), chi2_weight=st.floats(0.2, 3.0))
def test_its_expectation_is_minus_the_objective_of_iq_learn(soft_q, expert, chi2_weight):
    chance = probabilities(expert)
    values = soft_q.logsumexp(-1)
    logprobs, of_state = tabular_action_logprobs(soft_q, TABLE), values[TABLE.prefix_index]
    found, iq_learn = torch.zeros(2, dtype=torch.float64)
    for response in range(NUM):
        rows = TABLE.sequence_index == response
        out = objective(
            logprobs[rows],
            of_state[rows],
            torch.zeros(int(rows.sum()), dtype=torch.int64),
            td_weight=1.0 / chi2_weight,
        )
        found = found + chance[response] * out.loss
        # E[r - r^2 / (4 weight)] - E[V(s) - V(s')], r = Q(s, a) - V(s'), V(end) = 0
        for t, token in enumerate(TABLE.responses[response]):
            prefix = TABLE.responses[response][:t]
            after = (*prefix, token)
            following = values[TABLE.prefixes.index(after)] if after in TABLE.prefixes else 0.0
            here = TABLE.prefixes.index(prefix)
            reward = soft_q[here, token] - following
            gain = reward - reward**2 / (4.0 * chi2_weight) - (values[here] - following)
            iq_learn = iq_learn + chance[response] * gain
    torch.testing.assert_close(found, -iq_learn, **EXACT)


@given(batch=flat_batches())
def test_without_a_penalty_it_is_behavior_cloning(batch):
    index, logprobs, normalizers = batch
    num = int(index.max()) + 1
    cloning = behavior_cloning(
        logprobs,
        index,
        reduction="sum_per_sequence",
        num_sequences=num,
        num_action_tokens=len(index),
    )
    out = objective(logprobs, normalizers, index, td_weight=0.0)
    torch.testing.assert_close(out.loss, cloning.loss)
    for name, figure in cloning.diagnostics.items():
        torch.testing.assert_close(out.diagnostics[name], figure)


@given(soft_q=policy_tables())
def test_the_level_of_the_logits_changes_the_loss_and_not_the_policy(soft_q):
    def loss(table):
        return objective(
            tabular_action_logprobs(table, TABLE),
            table.logsumexp(-1)[TABLE.prefix_index],
            TABLE.sequence_index,
        )

    plain, raised = loss(soft_q), loss(soft_q + 1.0)
    # Inside a response V and V' rise together; only a last action's reward rises, by 1
    rise = raised.diagnostics["implied_return"] - plain.diagnostics["implied_return"]
    torch.testing.assert_close(rise.item(), 1.0, **EXACT)
    nll = plain.diagnostics["nll_per_sequence"]
    torch.testing.assert_close(raised.diagnostics["nll_per_sequence"], nll, **EXACT)
    assert (raised.loss - plain.loss).abs() > 0


@given(batch=flat_batches(), split=st.integers(0, 6))
def test_shards_sum_to_the_whole_step(batch, split):
    index, logprobs, normalizers = batch
    counts = {"num_sequences": int(index.max()) + 1, "num_action_tokens": len(index)}

    def share(rows, first):
        leaves = [values[rows].clone().requires_grad_() for values in (logprobs, normalizers)]
        out = objective(*leaves, index[rows] - first, **counts)
        return out, torch.stack(torch.autograd.grad(out.loss, leaves))

    whole, slopes = share(index >= 0, 0)
    parts = [share(rows, first) for rows, first in ((index < split, 0), (index >= split, split))]
    torch.testing.assert_close(sum(out.loss for out, _ in parts), whole.loss)
    torch.testing.assert_close(torch.cat([slope for _, slope in parts], dim=1), slopes)
    for name, figure in whole.diagnostics.items():
        torch.testing.assert_close(sum(out.diagnostics[name] for out, _ in parts), figure)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"td_weight": -0.1}, "td_weight must be finite and at least 0; it is -0.1"),
        ({"num_sequences": 0}, "num_sequences must be positive, got 0"),
        ({"num_action_tokens": 0}, "num_action_tokens must be positive, got 0"),
    ],
)
def test_wrong_settings_are_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        objective(torch.zeros(1), torch.zeros(1), torch.tensor([0]), **changes)
