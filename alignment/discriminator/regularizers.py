"""What keeps a discriminator from knowing its training data by heart.

It keeps the logit smooth around the data, where the reward is read, so that a discriminator that
separates the classes perfectly still rises gradually from one to the other.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

LEAST_SQUARED_NORM = 1e-24
"""Below it a norm counts as constant: the square root has no derivative at 0, where heads begin."""
DROPOUT_STREAM = 1
"""Sets the random numbers of token dropout apart from others drawn with the same seed."""


def squared_gradient_norms(
    logits: Float[Tensor, " verdict"],
    embeddings: Float[Tensor, "token hidden"],
    response_index: Int[Tensor, " token"],
    num_responses: int,
) -> Float[Tensor, " response"]:
    """Squared norm of the gradient of each response's logits by the embeddings of its own tokens.

    Tokens are discrete, so the gradient is taken by their embeddings. Of a response with several
    logits, one for each prefix, it is the gradient of their sum.

    Args:
        logits: differentiable functions of the embeddings, each of one response.
        embeddings: of the tokens, part of the graph of the logits.
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
        (|gradient| - 1)^2 of each response; a gradient of 0 costs 1 and is not moved.

    References:
        Gulrajani et al. 2017, arXiv:1704.00028, equation 3, at the responses of both classes: they
        take points between pairs of images, but between two texts of different lengths there are
        none.
    """
    norms = squared_norms.clamp(min=LEAST_SQUARED_NORM).sqrt()
    return (norms - 1.0).square()


def hidden_tokens(num_tokens: int, share: float, *, seed: int, number: int) -> NDArray[np.bool_]:
    """Choose the response tokens that an update does not see, the same for whoever asks again.

    Args:
        num_tokens: response tokens of both classes.
        share: of them that is hidden, in expectation.

    Returns:
        [token] true where the token's embedding is to be 0.
    """
    rng = np.random.default_rng([seed, number, DROPOUT_STREAM])
    return rng.random(num_tokens) < share


@torch.no_grad()
def limit_spectral_norm(weight: Float[Tensor, "output input"]) -> None:
    """Scale a weight in place so that it stretches no vector: spectral norm at most 1.

    It is only ever made smaller, unlike the weight of Miyato et al. 2018 (arXiv:1802.05957), which
    always has norm 1: a head may begin at zero and stay as flat as it wants.
    """
    weight.div_(torch.linalg.matrix_norm(weight, ord=2).clamp(min=1.0))
