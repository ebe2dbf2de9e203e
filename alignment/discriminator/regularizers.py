"""Regularizers that keep a discriminator from memorizing its training data.

They keep the logit smooth around the data, so that even a discriminator that separates the classes
perfectly changes gradually between them.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

LEAST_SQUARED_NORM = 1e-24
"""Lower bound of a squared norm: the square root has no derivative at 0, where heads start."""
DROPOUT_STREAM = 1
"""Separates the random numbers of token dropout from others of the same seed."""


def squared_gradient_norms(
    logits: Float[Tensor, " logit"],
    embeddings: Float[Tensor, "token hidden"],
    response_index: Int[Tensor, " token"],
    num_responses: int,
) -> Float[Tensor, " response"]:
    """Squared norm of the gradient of each response's logits by the embeddings of its own tokens.

    Tokens are discrete, so the gradient is taken by their embeddings. Of a response with several
    logits, one for each prefix, it is the gradient of their sum.

    Args:
        logits: differentiable functions of the embeddings, each of one response.
        embeddings: embeddings of the tokens, part of the graph of the logits.
        response_index: whose logits depend on each token: 0 to num_responses - 1; num_responses for
            a token on which those of several do, such as a prompt stored once for all its
            responses, which counts for none.

    Returns:
        sum over a response's tokens of |d logit / d embedding|^2, differentiable by the parameters.

    References:
        Mescheder et al. 2018, arXiv:1801.04406, R1 (real data) and R2 (generated data); their
        factor 1/2 is left to the caller's weight.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), embeddings, create_graph=True)
    sums = gradient.new_zeros(num_responses + 1)
    return sums.index_add(0, response_index, gradient.square().sum(-1))[:-1]


def lipschitz_penalties(
    squared_norms: Float[Tensor, " response"],
) -> Float[Tensor, " response"]:
    """Penalize slopes other than 1, which an optimal Wasserstein critic has almost everywhere.

    Returns:
        (|gradient| - 1)^2 of each response; at a gradient of 0 it is 1 and has no gradient.

    References:
        Gulrajani et al. 2017, arXiv:1704.00028, equation 3, at the responses of both classes: they
        take points between pairs of images, but between two texts of different lengths there are
        none.
    """
    norms = squared_norms.clamp(min=LEAST_SQUARED_NORM).sqrt()
    return (norms - 1.0).square()


def hidden_tokens(num_tokens: int, share: float, *, seed: int, number: int) -> NDArray[np.bool_]:
    """Choose the response tokens that are dropped in an update, a function of seed and number.

    Args:
        share: expected fraction of them that is hidden.

    Returns:
        [token] true where the token's embedding is to be 0.
    """
    rng = np.random.default_rng([seed % 2**64, number, DROPOUT_STREAM])
    return rng.random(num_tokens) < share


@torch.no_grad()
def limit_spectral_norm(weight: Float[Tensor, "output input"]) -> None:
    """Scale a weight in place so that it stretches no vector: spectral norm at most 1.

    A smaller norm is left as it is, so that a head can start at zero. The weight of Miyato et al.
    2018 (arXiv:1802.05957) always has norm 1.
    """
    weight.div_(torch.linalg.matrix_norm(weight, ord=2).clamp(min=1.0))
