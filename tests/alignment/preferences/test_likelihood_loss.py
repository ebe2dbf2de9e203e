import math

import pytest
import torch

from alignment.mdp.packing import microbatches
from alignment.preferences.labelled_pairs import pairs_of_batch, pairs_of_responses
from alignment.preferences.likelihood_loss import (
    LOG_SCALE_PENALTY,
    initial_log_tie,
    learned_likelihood,
    likelihood_loss,
    log_likelihoods,
    num_outputs,
)
from alignment.preferences.lookup import PREFERENCE_LIKELIHOODS
from tests.fakes.ranked import ranked_responses

PARAMETERS = {"margin": {"margin_per_strength": 1.0}, "thurstone": {"scale": 1.0}}
# Three comparisons: a pair, a ranking of three, a pair.
SIZES = [2, 3, 2]
LENGTHS = [1 + index % 4 for index in range(7)]
RANKED = ranked_responses([0, 1, 0, 1, 2, 0, 1], SIZES, [1.0, 2.0, 0.5], LENGTHS)
PAIRS = pairs_of_responses(RANKED)


def likelihood_of(name, log_tie=0.0):
    return learned_likelihood(name, PARAMETERS.get(name, {}), torch.tensor(log_tie).double())


def outputs_for(name, num_responses=7, seed=0):
    rng = torch.Generator().manual_seed(seed)
    width = num_outputs(likelihood_of(name))
    return torch.randn(num_responses, width, generator=rng, dtype=torch.float64)


def test_a_likelihood_of_pairs_takes_every_two_responses_and_each_comparison_counts_the_same():
    scores = torch.tensor([[2.0], [1.0], [3.0], [1.0], [4.0], [0.0], [0.0]])
    # log sigmoid(1); (log sigmoid(2) + log sigmoid(-1) + log sigmoid(-3)) / 3; -log 2
    costs = [math.log1p(math.exp(-d)) for d in (1, 2, -1, -3, 0)]
    expected = (costs[0] + sum(costs[1:4]) / 3 + costs[4]) / 3
    found = log_likelihoods(scores, PAIRS, likelihood_of("bradley_terry"))
    assert found.values.tolist() == pytest.approx([-cost for cost in costs])
    assert found.comparisons.tolist() == [0, 1, 1, 1, 2]
    assert found.weights.tolist() == pytest.approx([1, 1 / 3, 1 / 3, 1 / 3, 1])
    loss = likelihood_loss(scores, PAIRS, likelihood_of("bradley_terry"), num_comparisons=3)
    assert math.isclose(float(loss), expected, rel_tol=1e-6)


def test_a_likelihood_of_rankings_takes_a_comparison_whole():
    scores = torch.tensor([[2.0], [1.0], [3.0], [1.0], [4.0], [0.0], [0.0]]).double()
    found = log_likelihoods(scores, PAIRS, likelihood_of("plackett_luce"))
    e = math.exp
    ranking = math.log(e(3) / (e(3) + e(1) + e(4)) * e(1) / (e(1) + e(4)))
    expected = [-math.log1p(e(-1)), ranking, -math.log(2)]
    assert found.values.tolist() == pytest.approx(expected)
    assert found.comparisons.tolist() == [0, 1, 2]
    assert found.means().tolist() == found.values.tolist()


def test_strong_preferences_ask_for_more_with_a_margin():
    scores = torch.tensor([[1.5], [0.0]]).double()
    pairs = pairs_of_responses(ranked_responses([0, 1], [2], [2.0]))
    found = log_likelihoods(scores, pairs, likelihood_of("margin"))
    assert found.values.tolist() == pytest.approx([-math.log1p(math.exp(2.0 - 1.5))])


@pytest.mark.parametrize("name", PREFERENCE_LIKELIHOODS)
def test_microbatches_add_up_to_the_step_in_loss_and_gradient(name):
    outputs = outputs_for(name).requires_grad_()
    likelihood = likelihood_of(name)
    whole = likelihood_loss(outputs, PAIRS, likelihood, num_comparisons=3)
    (expected,) = torch.autograd.grad(whole, outputs)
    parts = torch.zeros((), dtype=torch.float64)
    batches = microbatches(RANKED.trajectories, 12)
    assert len(batches) == 2
    for batch in batches:
        mine = outputs[batch.trajectory_indices]
        parts = parts + likelihood_loss(
            mine, pairs_of_batch(RANKED, batch), likelihood, num_comparisons=3
        )
    (gradient,) = torch.autograd.grad(parts, outputs)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(gradient, expected)
    assert bool((gradient != 0).all())


@pytest.mark.parametrize("name", PREFERENCE_LIKELIHOODS)
def test_ties_are_taken_or_counted_in_the_refusal(name):
    ranked = ranked_responses([0, 0, 0, 1, 1], [2, 3], [0.0, 0.0])
    assert ranked.num_ties == 2
    pairs, outputs = pairs_of_responses(ranked), 0.0 * outputs_for(name, 5)
    if name in ("rao_kupper", "davidson"):
        found = log_likelihoods(outputs, pairs, likelihood_of(name, math.log(2.0)))
        assert found.values.exp().tolist() == pytest.approx([1 / 2, 1 / 4, 1 / 4, 1 / 2])
    else:
        with pytest.raises(ValueError, match=rf"hold 2 ties, to which {name} gives"):
            log_likelihoods(outputs, pairs, likelihood_of(name))


@pytest.mark.parametrize("name", ["rao_kupper", "davidson"])
def test_the_share_of_ties_begins_where_equal_scores_make_it_likeliest(name):
    # Of four pairs one is a tie; all scores are 0, so the slope by the share must be 0.
    log_tie = torch.tensor(initial_log_tie(0.25), dtype=torch.float64, requires_grad=True)
    likelihood = learned_likelihood(name, {}, log_tie)
    pairs = pairs_of_responses(ranked_responses([0, 0, 0, 1, 0, 1, 0, 1], [2] * 4))
    scores = torch.zeros(8, 1, dtype=torch.float64)
    found = log_likelihoods(scores, pairs, likelihood)
    assert found.values.exp().tolist() == pytest.approx([0.25, 0.375, 0.375, 0.375])
    likelihood_loss(scores, pairs, likelihood, num_comparisons=4).backward()
    assert abs(float(log_tie.grad)) < 1e-12


def test_the_unit_of_scores_and_noise_is_fixed_by_a_penalty():
    likelihood = likelihood_of("learned_variance")
    outputs = outputs_for("learned_variance")
    # Twice the scores with twice the noise have the same probabilities; only the penalty differs.
    doubled = 2 * outputs[:, :1], outputs[:, 1:] + math.log(2)
    once = log_likelihoods(outputs, PAIRS, likelihood)
    twice = log_likelihoods(torch.cat(doubled, dim=1), PAIRS, likelihood)
    torch.testing.assert_close(once.values, twice.values)
    loss = likelihood_loss(outputs, PAIRS, likelihood, num_comparisons=3)
    squares = outputs[:, 1].square()
    mean = (squares[:2].mean() + squares[2:5].mean() + squares[5:].mean()) / 3
    expected = -once.means().mean() + LOG_SCALE_PENALTY * mean
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
