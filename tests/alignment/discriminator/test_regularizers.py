import math

import numpy as np
import torch
from torch import nn

from alignment.discriminator.regularizers import (
    hidden_tokens,
    limit_spectral_norm,
    lipschitz_penalties,
    squared_gradient_norms,
)


def test_the_gradient_of_a_linear_logit_is_its_weight_at_every_token_of_its_own():
    # logit = w . sum of a response's embeddings: each token's gradient is w, |w|^2 = 1 + 4 = 5.
    weight = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    embeddings = torch.ones(6, 2, dtype=torch.float64, requires_grad=True)
    # The prompt, token 0, is shared and counts for neither response.
    response_index = torch.tensor([2, 0, 0, 1, 1, 1])
    logits = torch.stack([embeddings[:3].sum(0) @ weight, embeddings[3:].sum(0) @ weight])
    norms = squared_gradient_norms(logits, embeddings, response_index, 2)
    assert norms.tolist() == [10.0, 15.0]
    norms.sum().backward()
    torch.testing.assert_close(weight.grad, 5 * 2 * weight.detach())  # d |w|^2 = 2 w, five times


def test_the_gradient_matches_finite_differences_through_a_network():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    embeddings = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    logits = network(embeddings).squeeze(-1)
    norms = squared_gradient_norms(logits, embeddings, torch.tensor([0, 1]), 2)
    for row in range(2):
        expected, step = 0.0, 1e-6
        for column in range(3):
            shift = torch.zeros(2, 3, dtype=torch.float64)
            shift[row, column] = step
            up, down = network(embeddings + shift), network(embeddings - shift)
            expected += ((up - down)[row].item() / (2 * step)) ** 2
        assert math.isclose(norms[row].item(), expected, rel_tol=1e-6)


def test_a_critic_is_pulled_to_slope_one_and_one_without_slope_is_left_alone():
    squared = torch.tensor([9.0, 1.0, 0.25, 0.0], requires_grad=True)
    penalties = lipschitz_penalties(squared)
    assert penalties.tolist() == [4.0, 0.0, 0.25, 1.0]
    penalties.sum().backward()
    # d (n - 1)^2 / d n^2 = (n - 1) / n
    torch.testing.assert_close(squared.grad, torch.tensor([2 / 3, 0.0, -1.0, 0.0]))


def test_a_norm_is_made_smaller_but_not_larger():
    long, short = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.3, 0.4]])
    limit_spectral_norm(long)
    limit_spectral_norm(short)
    torch.testing.assert_close(long, torch.tensor([[0.6, 0.8]]))
    assert torch.equal(short, torch.tensor([[0.3, 0.4]]))
    square = torch.diag(torch.tensor([4.0, 2.0]))
    limit_spectral_norm(square)
    torch.testing.assert_close(square, torch.diag(torch.tensor([1.0, 0.5])))


def test_the_share_of_tokens_that_was_asked_is_hidden_and_the_same_ones_again():
    hidden = hidden_tokens(20_000, 0.3, seed=1, number=7)
    assert abs(hidden.mean() - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 20_000)
    np.testing.assert_array_equal(hidden, hidden_tokens(20_000, 0.3, seed=1, number=7))
    # Other updates and other runs hide others: 0.3 of them by chance.
    for other in ({"seed": -2, "number": 7}, {"seed": 1, "number": 8}):
        shared = hidden_tokens(20_000, 0.3, **other)[hidden].mean()
        assert abs(shared - 0.3) < 0.03
    assert not hidden_tokens(1000, 0.0, seed=0, number=0).any()
