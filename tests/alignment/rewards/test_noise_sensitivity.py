import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from alignment.rewards.noise_sensitivity import (
    FLIPPED,
    LIKELIHOODS,
    RIDGE,
    accuracy,
    feature_pairs,
    fitted_head,
    noise_sensitivity,
    with_flips,
)

NUM_PAIRS, HIDDEN = 300, 3


def kept(scale=1.0):
    """Features of which only the first says which response is better, by a wide gap."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2 * NUM_PAIRS, HIDDEN, generator=generator)
    features[0::2, 0] = 6.0 + features[0::2, 0]
    features[1::2, 0] = -6.0 + features[1::2, 0]
    rows = torch.arange(NUM_PAIRS).repeat_interleave(2)
    ranks = torch.tensor([0.0, 1.0]).repeat(NUM_PAIRS)
    return scale * features, rows, ranks, (rows < 100).to(torch.uint8)


def train_pairs():
    pairs = feature_pairs(*kept())
    return pairs.features[~pairs.is_held_out]


def test_what_can_be_told_apart_survives_a_fifth_of_wrong_answers():
    found = {
        (each.likelihood, each.flipped): each for each in noise_sensitivity(feature_pairs(*kept()))
    }
    assert list(found) == [(name, share) for name in LIKELIHOODS for share in FLIPPED]
    for name in LIKELIHOODS:
        for share in (0.0, 0.1, 0.2):
            assert set(found[name, share].accuracies) == {1.0}
            assert (found[name, share].mean, found[name, share].spread) == (1.0, 0.0)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_where_all_answers_are_wrong_all_of_the_order_is(name):
    flipped = with_flips(train_pairs(), 1.0, seed=0)
    assert accuracy(train_pairs(), fitted_head(name, flipped)) == 0.0
    torch.testing.assert_close(fitted_head(name, flipped), -fitted_head(name, train_pairs()))


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_no_flips_is_the_plain_fit_which_another_optimizer_finds(name):
    train = train_pairs()
    assert torch.equal(with_flips(train, 0.0, seed=3), train)
    x = train.numpy()

    def loss(weights):
        chosen, rejected = x[:, 0] @ weights, x[:, 1] @ weights
        if name == "bradley_terry":
            costs = np.logaddexp(0.0, rejected - chosen)
        else:
            costs = np.logaddexp(0.0, -chosen) + np.logaddexp(0.0, rejected)
        return costs.mean() + 0.5 * RIDGE * weights @ weights

    expected = minimize(loss, np.zeros(HIDDEN), options={"gtol": 1e-9}).x
    np.testing.assert_allclose(fitted_head(name, train), expected, atol=0.01)
    pairs = feature_pairs(*kept())
    plain = accuracy(pairs.features[pairs.is_held_out], fitted_head(name, train))
    found = [each for each in noise_sensitivity(pairs) if each.likelihood == name]
    assert found[0].accuracies == (plain,)


def test_as_many_answers_are_flipped_as_was_asked_and_more_flips_hold_fewer():
    train = train_pairs()
    flipped = {
        share: (with_flips(train, share, seed=5) != train).any(2).any(1) for share in FLIPPED
    }
    assert [int(each.sum()) for each in flipped.values()] == [0, 20, 40, 60, 80]
    assert (flipped[0.4] | ~flipped[0.1]).all()
    assert torch.equal(with_flips(train, 1.0, seed=5), train.flip(1))
    assert not torch.equal(with_flips(train, 0.1, seed=5), with_flips(train, 0.1, seed=6))


def test_only_decided_pairs_are_kept_and_the_unit_of_a_feature_is_of_no_account():
    features = torch.tensor([[1.0, 5.0], [3.0, 5.0], [0.0, 5.0], [0.0, 5.0], [7.0, 5.0]])
    features = torch.cat([features, torch.tensor([[9.0, 6.0], [1.0, 4.0], [2.0, 5.0], [4.0, 5.0]])])
    rows = torch.tensor([4, 4, 7, 7, 7, 8, 8, 9, 9])  # a pair, a ranking, a pair, a tie
    ranks = torch.tensor([0.0, 1.0, 0.0, 1.0, 2.0, 0.0, 1.0, 0.0, 0.0])
    held_out = torch.tensor([0, 0, 0, 0, 0, 1, 1, 0, 0], dtype=torch.uint8)
    pairs = feature_pairs(features, rows, ranks, held_out)
    assert pairs.is_held_out.tolist() == [False, True]
    # The mean of the training pair is 2, its deviation 1; its second feature does not vary.
    assert pairs.features.tolist() == [[[-1.0, 0.0], [1.0, 0.0]], [[7.0, 0.0], [-1.0, 0.0]]]
    torch.testing.assert_close(feature_pairs(*kept(8.0)).features, feature_pairs(*kept()).features)


def test_without_pairs_on_both_sides_there_is_nothing_to_say():
    features, rows, ranks, held_out = kept()
    assert noise_sensitivity(feature_pairs(features, rows, ranks, torch.zeros_like(held_out))) == []
    assert noise_sensitivity(feature_pairs(features, rows, ranks, torch.ones_like(held_out))) == []
    assert noise_sensitivity(feature_pairs(features, rows, torch.zeros_like(ranks), held_out)) == []
