import math

import numpy as np
import pytest
import torch

from alignment.mdp.packing import microbatches
from alignment.mdp.trajectories import concatenate, pack
from alignment.preferences.lookup import PREFERENCE_LIKELIHOODS
from alignment.preferences.reward_model_loss import (
    LOG_SCALE_PENALTY,
    answers_on_rows,
    count_ties,
    first_log_tie,
    learned_likelihood,
    log_likelihoods,
    num_outputs,
    preference_loss,
    rows_in_order,
)

PARAMETERS = {"margin": {"margin_per_strength": 1.0}, "thurstone": {"scale": 1.0}}
# Three rows: a pair, a ranking of three, a pair.
SIZES = [2, 3, 2]
RANKS = np.asarray([0, 1, 0, 1, 2, 0, 1], np.float32)
ANSWERS = answers_on_rows(RANKS, SIZES, [1.0, 2.0, 0.5])


def likelihood_of(name, log_tie=0.0):
    return learned_likelihood(name, PARAMETERS.get(name, {}), torch.tensor(log_tie).double())


def outputs_for(name, num_responses=7, seed=0):
    rng = torch.Generator().manual_seed(seed)
    width = num_outputs(likelihood_of(name))
    return torch.randn(num_responses, width, generator=rng, dtype=torch.float64)


def test_a_likelihood_of_pairs_sees_every_two_of_a_row_and_each_row_counts_the_same():
    scores = torch.tensor([[2.0], [1.0], [3.0], [1.0], [4.0], [0.0], [0.0]])
    # log sigmoid(1); (log sigmoid(2) + log sigmoid(-1) + log sigmoid(-3)) / 3; -log 2
    costs = [math.log1p(math.exp(-d)) for d in (1, 2, -1, -3, 0)]
    expected = (costs[0] + sum(costs[1:4]) / 3 + costs[4]) / 3
    found = log_likelihoods(scores, ANSWERS, likelihood_of("bradley_terry"))
    assert found.values.tolist() == pytest.approx([-cost for cost in costs])
    assert found.rows.tolist() == [0, 1, 1, 1, 2]
    assert found.weights.tolist() == pytest.approx([1, 1 / 3, 1 / 3, 1 / 3, 1])
    loss = preference_loss(scores, ANSWERS, likelihood_of("bradley_terry"), num_rows=3)
    assert math.isclose(float(loss), expected, rel_tol=1e-6)


def test_a_likelihood_of_rankings_sees_a_row_whole():
    scores = torch.tensor([[2.0], [1.0], [3.0], [1.0], [4.0], [0.0], [0.0]]).double()
    found = log_likelihoods(scores, ANSWERS, likelihood_of("plackett_luce"))
    e = math.exp
    ranking = math.log(e(3) / (e(3) + e(1) + e(4)) * e(1) / (e(1) + e(4)))
    expected = [-math.log1p(e(-1)), ranking, -math.log(2)]
    assert found.values.tolist() == pytest.approx(expected)
    assert found.rows.tolist() == [0, 1, 2]
    assert found.row_means().tolist() == found.values.tolist()


def test_strong_preferences_ask_for_more_with_a_margin():
    scores = torch.tensor([[1.5], [0.0]]).double()
    answers = answers_on_rows(np.asarray([0, 1], np.float32), [2], [2.0])
    found = log_likelihoods(scores, answers, likelihood_of("margin"))
    assert found.values.tolist() == pytest.approx([-math.log1p(math.exp(2.0 - 1.5))])


@pytest.mark.parametrize("name", PREFERENCE_LIKELIHOODS)
def test_microbatches_add_up_to_the_step_in_loss_and_gradient(name):
    trajectories = concatenate(
        [
            pack([5, 6], [7] * (1 + index % 4), prompt_id=row)
            for index, row in enumerate([0, 0, 1, 1, 1, 2, 2])
        ]
    )
    outputs = outputs_for(name).requires_grad_()
    likelihood = likelihood_of(name)
    whole = preference_loss(outputs, ANSWERS, likelihood, num_rows=3)
    (expected,) = torch.autograd.grad(whole, outputs)
    parts = torch.zeros((), dtype=torch.float64)
    batches = microbatches(trajectories, 12)
    assert len(batches) == 2
    for batch in batches:
        mine = outputs[batch.trajectory_indices]
        parts = parts + preference_loss(mine, ANSWERS.of(batch), likelihood, num_rows=3)
    (gradient,) = torch.autograd.grad(parts, outputs)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(gradient, expected)
    assert bool((gradient != 0).all())


@pytest.mark.parametrize("name", PREFERENCE_LIKELIHOODS)
def test_ties_are_taken_or_counted_in_the_refusal(name):
    ranks, sizes = np.asarray([0, 0, 0, 1, 1], np.float32), [2, 3]
    assert count_ties(ranks, sizes) == 2
    answers, outputs = answers_on_rows(ranks, sizes, [0.0, 0.0]), 0.0 * outputs_for(name, 5)
    if name in ("rao_kupper", "davidson"):
        found = log_likelihoods(outputs, answers, likelihood_of(name, math.log(2.0)))
        assert found.values.exp().tolist() == pytest.approx([1 / 2, 1 / 4, 1 / 4, 1 / 2])
    else:
        with pytest.raises(ValueError, match=rf"2 ties among the answers, to which {name} gives"):
            log_likelihoods(outputs, answers, likelihood_of(name))


@pytest.mark.parametrize("name", ["rao_kupper", "davidson"])
def test_the_share_of_ties_begins_where_equal_scores_make_it_likeliest(name):
    # Of four pairs one is a tie; all scores are 0, so the slope by the share must be 0.
    log_tie = torch.tensor(first_log_tie(0.25), dtype=torch.float64, requires_grad=True)
    likelihood = learned_likelihood(name, {}, log_tie)
    ranks = np.asarray([0, 0, 0, 1, 0, 1, 0, 1], np.float32)
    answers = answers_on_rows(ranks, [2] * 4, [0.0] * 4)
    scores = torch.zeros(8, 1, dtype=torch.float64)
    found = log_likelihoods(scores, answers, likelihood)
    assert found.values.exp().tolist() == pytest.approx([0.25, 0.375, 0.375, 0.375])
    preference_loss(scores, answers, likelihood, num_rows=4).backward()
    assert abs(float(log_tie.grad)) < 1e-12


def test_the_unit_of_scores_and_noise_is_fixed_by_a_penalty():
    likelihood = likelihood_of("learned_variance")
    outputs = outputs_for("learned_variance")
    # Twice the scores with twice the noise are the same answers; only the penalty differs.
    doubled = 2 * outputs[:, :1], outputs[:, 1:] + math.log(2)
    once = log_likelihoods(outputs, ANSWERS, likelihood)
    twice = log_likelihoods(torch.cat(doubled, dim=1), ANSWERS, likelihood)
    torch.testing.assert_close(once.values, twice.values)
    loss = preference_loss(outputs, ANSWERS, likelihood, num_rows=3)
    squares = outputs[:, 1].square()
    mean = (squares[:2].mean() + squares[2:5].mean() + squares[5:].mean()) / 3
    expected = -once.row_means().mean() + LOG_SCALE_PENALTY * mean
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)


def test_order_is_by_row_half_for_equal_scores_and_unknown_where_all_tie():
    scores = np.asarray([1, 1, 3, 1, 4, 0, 0], np.float32)
    ranks = np.asarray([0, 1, 0, 1, 2, 0, 0], np.float32)
    # Equal: 1/2. Of 3 > 1, 3 > 4, 1 > 4 one is right. The last row says nothing.
    np.testing.assert_allclose(rows_in_order(scores, ranks, SIZES), [0.5, 1 / 3, np.nan])
