"""How much wrong answers cost: a head refitted on frozen features while answers are turned around.

A model is trained on answers as annotators gave them, of which some are wrong already. What more of
them would do is measured by turning some more around, on the features that the head of the trained
model sees, so that a fit takes a fraction of a second. Held-out answers are left as they are.
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
"""Of pairs: the one that is calibrated, and the one that does not see who met whom."""
FLIPPED = (0.0, 0.1, 0.2, 0.3, 0.4)
"""Shares of the training answers that are turned around; at 0.5 nothing is left to learn."""
SEEDS = (0, 1, 2, 3)
"""Of which answers these are; at each seed a larger share holds a smaller one's."""
RIDGE = 0.01
"""Half of it times the weights' squared norm joins the mean loss, in nats: enough that a head of
more weights than answers has one optimum, and little beside the answers of some thousand rows."""
MAX_ITERATIONS = 200
TOLERANCE = 1e-4
"""Of the loss's gradient, where a fit ends: a hundredth of it changes accuracy by 0.001."""


class Pairs(NamedTuple):
    """Rows of two responses of which one was preferred; what was not said in pairs is left out."""

    features: Float[Tensor, "pair place hidden"]
    """The preferred response first."""
    is_held_out: Tensor
    """[pair]"""


class Sensitivity(NamedTuple):
    """Held-out accuracy after a share of the training answers was turned around."""

    likelihood: str
    flipped: float
    accuracies: tuple[float, ...]
    """By seed; one where nothing is turned around."""

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return float(np.mean(self.accuracies))

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds; 0 of one."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else 0.0


def pairs_of(
    features: Float[Tensor, "response hidden"],
    rows: Tensor,
    ranks: Float[Tensor, " response"],
    is_held_out: UInt8[Tensor, " response"],
) -> Pairs:
    """Find the pairs among responses whose features were kept.

    Args:
        rows: [response] number of its row; the responses of a row are beside one another.
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
        return Pairs(found, held_out)
    deviations = train.std(0, unbiased=False)
    varies = deviations > 0.0
    scale = deviations.where(varies, torch.ones_like(deviations))
    return Pairs((found - train.mean(0)) / scale * varies, held_out)


def noise_sensitivity(pairs: Pairs, seeds: Sequence[int] = SEEDS) -> list[Sensitivity]:
    """Refit a linear head to answers of which more and more are wrong.

    Args:
        pairs: some of them held out.
        seeds: of which answers are turned around.

    Returns:
        For each likelihood of LIKELIHOODS and each share of FLIPPED; empty if either side has no
        pairs.
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
    """Turn a share of the answers around, rounded to whole answers, drawn without replacement."""
    order = np.random.default_rng(seed).permutation(len(pairs))
    flipped = torch.from_numpy(order[: round(share * len(pairs))])
    pairs = pairs.clone()
    pairs[flipped] = pairs[flipped].flip(1)
    return pairs


def fitted_head(name: str, pairs: Float[Tensor, "pair place hidden"]) -> Float[Tensor, " hidden"]:
    """Fit a linear head without bias, as that of a reward model, by penalized likelihood.

    Args:
        name: a likelihood of pairs that has no parameters.
        pairs: features, the response that is said to be better first; at least one pair.

    Returns:
        Weights where the mean negative log-likelihood plus RIDGE / 2 times their squared norm,
        which is convex, is smallest.
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
        answers = likelihood.log_likelihood(Comparisons(scores))
        total = -answers.mean() + 0.5 * RIDGE * weights.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return float(total.detach())

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach()


def accuracy(pairs: Float[Tensor, "pair place hidden"], weights: Float[Tensor, " hidden"]) -> float:
    """Return the share of pairs whose preferred response scores higher, equal ones half."""
    scores = pairs @ weights
    return float((0.5 + 0.5 * (scores[:, 0] - scores[:, 1]).sign()).mean())
