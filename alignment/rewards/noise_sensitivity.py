"""Accuracy of a reward model under additional label noise, from a head refitted on features.

The labels of annotators already contain errors. The effect of more of them is measured by flipping
a fraction of the training labels and refitting a linear head on the features of the trained model,
which takes a fraction of a second. Held-out labels are not flipped.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from alignment.preferences.lookup import preference_likelihood
from alignment.preferences.record import Comparisons

LIKELIHOODS = ("bradley_terry", "classification")
"""Likelihoods of pairs: the calibrated one, and the one that ignores who was compared."""
FLIPPED = (0.0, 0.1, 0.2, 0.3, 0.4)
"""Fractions of the training labels that are flipped; at 0.5 no information is left."""
SEEDS = (0, 1, 2, 3)
"""Seeds of the choice of labels; for each, a larger fraction includes the smaller ones."""
RIDGE = 0.01
"""Coefficient of half the squared norm of the weights in the loss, in nats: it gives a head with
more weights than labels one optimum, and hardly matters with thousands of labels."""
MAX_ITERATIONS = 200
TOLERANCE = 1e-4
"""Gradient at which a fit ends; a hundredth of it changes the accuracy by 0.001."""


class FeaturePairs(NamedTuple):
    """Features of the comparisons of two responses that are not ties."""

    features: Float[Tensor, "pair place hidden"]
    """The preferred response first."""
    is_held_out: Tensor
    """[pair] whether it is in the evaluation set."""


class Sensitivity(NamedTuple):
    """Held-out accuracy after a fraction of the training labels was flipped."""

    likelihood: str
    flipped: float
    accuracies: tuple[float, ...]
    """One accuracy per seed; a single one if no label is flipped."""

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(self.accuracies))

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds; 0 for a single one."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else 0.0


def feature_pairs(
    features: Float[Tensor, "response hidden"],
    rows: Tensor,
    ranks: Float[Tensor, " response"],
    is_held_out: UInt8[Tensor, " response"],
) -> FeaturePairs:
    """Select the pairs without ties among responses with saved features.

    Args:
        rows: [response] number of its row; the responses of a row are adjacent.
        ranks: 0 for the best, equal for a tie; the best of a row comes first.

    Returns:
        The pairs, in float64, features standardized by those of the training pairs; a feature that
        does not vary there is 0.
    """
    sizes = torch.unique_consecutive(rows, return_counts=True)[1]
    first = sizes.cumsum(0) - sizes
    first = first[sizes == 2]
    first = first[ranks[first] != ranks[first + 1]]
    found = features.double()[torch.stack([first, first + 1], dim=1)]
    held_out = is_held_out[first].bool()
    train = found[~held_out].flatten(0, 1)
    if not len(train):
        return FeaturePairs(found, held_out)
    deviations = train.std(0, unbiased=False)
    varies = deviations > 0.0
    scale = deviations.where(varies, torch.ones_like(deviations))
    return FeaturePairs((found - train.mean(0)) / scale * varies, held_out)


def noise_sensitivity(pairs: FeaturePairs, seeds: Sequence[int] = SEEDS) -> list[Sensitivity]:
    """Refit a linear head to labels with increasing noise.

    Returns:
        One entry for each of LIKELIHOODS and each of FLIPPED; empty if the training or the
        evaluation set has no pairs.
    """
    train, held_out = pairs.features[~pairs.is_held_out], pairs.features[pairs.is_held_out]
    if not len(train) or not len(held_out):
        return []
    return [
        Sensitivity(
            name,
            share,
            tuple(
                accuracy(held_out, fitted_head(name, with_flips(train, share, seed)))
                for seed in (seeds if share else seeds[:1])
            ),
        )
        for name in LIKELIHOODS
        for share in FLIPPED
    ]


def with_flips(
    pairs: Float[Tensor, "pair place hidden"], share: float, seed: int
) -> Float[Tensor, "pair place hidden"]:
    """Flip a fraction of the labels, rounded to whole labels, drawn without replacement."""
    order = np.random.default_rng(seed).permutation(len(pairs))
    flipped = torch.from_numpy(order[: round(share * len(pairs))])
    pairs = pairs.clone()
    pairs[flipped] = pairs[flipped].flip(1)
    return pairs


def fitted_head(name: str, pairs: Float[Tensor, "pair place hidden"]) -> Float[Tensor, " hidden"]:
    """Fit a linear head without bias, as that of a reward model, by penalized likelihood.

    The loss, the mean negative log-likelihood plus RIDGE / 2 times the squared norm of the weights,
    is convex.

    Args:
        name: a likelihood of pairs without parameters.
        pairs: features of one pair or more, the preferred response first.
    """
    likelihood = preference_likelihood(name)
    flat = pairs.flatten(0, 1)
    weights = torch.zeros(pairs.shape[2], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights],
        max_iter=MAX_ITERATIONS,
        tolerance_grad=TOLERANCE,
        line_search_fn="strong_wolfe",
    )

    def loss() -> float:
        optimizer.zero_grad()
        scores = (flat @ weights).view(-1, 2)
        labels = likelihood.log_likelihood(Comparisons(scores))
        total = -labels.mean() + 0.5 * RIDGE * weights.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return float(total.detach())

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach()


def accuracy(pairs: Float[Tensor, "pair place hidden"], weights: Float[Tensor, " hidden"]) -> float:
    """Return the fraction of pairs whose preferred response scores higher; equal ones half."""
    scores = pairs @ weights
    return float((0.5 + 0.5 * (scores[:, 0] - scores[:, 1]).sign()).mean())
