"""Synthetic annotators, who label comparisons of responses with known true scores.

Labels follow perceived scores: the true score of each response plus independent noise, Gumbel or
Gaussian. The response with the highest perceived score is preferred. With Gumbel noise, labels are
exactly Bradley-Terry's (the difference of two Gumbel variables is logistic), rankings
Plackett-Luce's, and ties by a threshold Rao-Kupper's. With Gaussian noise, labels are Thurstone's.

In uniform pairing, all pairs of responses are equally likely. In skewed pairing, responses of
similar true scores are compared, as by active learning, with one comparison in ten uniform.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NUM_DOMAINS = 2
"""Response i has domain i mod 2."""
SKEWED_RANKS = 1.5
"""Distance in the true order over which the odds of an opponent fall by e in skewed pairing."""
UNIFORM_SHARE = 0.1
"""Share of uniform comparisons in skewed pairing, which connect the whole order."""
STRENGTH_LEVELS = 3
"""Slightly better, better and much better: strengths 0, 1/2 and 1."""
STRENGTH_STEP = 1.5
"""Perceived difference of scores from one level of strength to the next."""
Pairing = Literal["uniform", "skewed"]


class Annotators(NamedTuple):
    """The noise and the label format of a group of annotators."""

    name: str
    noise: Literal["gumbel", "gaussian"] = "gumbel"
    """Distribution of the noise on each response, of scale 1."""
    noise_by_domain: tuple[float, float] = (1.0, 1.0)
    """Scale of the noise on responses of each domain."""
    tie_threshold: float = 0.0
    """Perceived differences below this are a tie; 0 disables ties."""
    flipped: float = 0.0
    """Share of labels that are flipped."""
    num_places: int = 2
    """Responses in a comparison; more than two are ranked."""


class AnnotatorLabels(NamedTuple):
    """Labels of comparisons, by index of response."""

    ranked: Int[Tensor, "comparison place"]
    """The preferred response first."""
    is_tie: Bool[Tensor, " comparison"]
    strengths: Float[Tensor, " comparison"]
    """Strength of the preference for the first response: 0, 1/2 or 1."""


def domains_of(num_responses: int) -> Int[Tensor, " response"]:
    """Return each response's domain."""
    return torch.arange(num_responses) % NUM_DOMAINS


def label_comparisons(
    annotators: Annotators,
    truth: Float[Tensor, " response"],
    pairing: Pairing,
    num_comparisons: int,
    generator: torch.Generator,
) -> AnnotatorLabels:
    """Draw comparisons of responses with these true scores, and label them."""
    compared = _draw_responses(truth, pairing, num_comparisons, annotators.num_places, generator)
    factors = torch.tensor(annotators.noise_by_domain, dtype=truth.dtype)[domains_of(len(truth))]
    if annotators.noise == "gumbel":
        noise = _gumbel(compared.shape, generator)
    else:
        noise = torch.randn(compared.shape, generator=generator, dtype=torch.float64)
    perceived, order = (truth[compared] + factors[compared] * noise).sort(dim=1, descending=True)
    gaps = perceived[:, 0] - perceived[:, 1]
    draws = torch.rand(num_comparisons, 1, generator=generator, dtype=torch.float64)
    order = torch.where(draws < annotators.flipped, order.flip(1), order)
    levels = (gaps / STRENGTH_STEP).floor().clamp(max=STRENGTH_LEVELS - 1)
    return AnnotatorLabels(
        ranked=compared.gather(1, order),
        is_tie=gaps < annotators.tie_threshold,
        strengths=levels / (STRENGTH_LEVELS - 1),
    )


def without_ties(labels: AnnotatorLabels) -> AnnotatorLabels:
    """Drop ties."""
    is_decided = ~labels.is_tie
    return AnnotatorLabels(*(column[is_decided] for column in labels))


def in_pairs(labels: AnnotatorLabels) -> AnnotatorLabels:
    """Split every ranking into its pairs, each with the strength of the ranking."""
    num_places = labels.ranked.shape[1]
    first, second = torch.triu_indices(num_places, num_places, offset=1)
    pairs = torch.stack([labels.ranked[:, first], labels.ranked[:, second]], dim=2)
    copies = len(first)
    return AnnotatorLabels(
        pairs.reshape(-1, 2),
        labels.is_tie.repeat_interleave(copies),
        labels.strengths.repeat_interleave(copies),
    )


def _draw_responses(
    truth: Tensor,
    pairing: Pairing,
    num_comparisons: int,
    num_places: int,
    generator: torch.Generator,
) -> Int[Tensor, "comparison place"]:
    """Draw distinct responses: one uniformly, the others by their distance in the true order."""
    num_responses = len(truth)
    rank = truth.argsort().argsort()
    first = torch.randint(num_responses, (num_comparisons, 1), generator=generator)
    distances = (rank - rank[first]).abs() / SKEWED_RANKS
    is_uniform = torch.rand(num_comparisons, 1, generator=generator) < UNIFORM_SHARE
    if pairing == "uniform":
        is_uniform = torch.ones_like(is_uniform)
    log_odds = torch.where(is_uniform, 0.0, -distances).scatter(1, first, -torch.inf)
    keys = log_odds + _gumbel(
        log_odds.shape, generator
    )  # Gumbel top-k: draws without replacement by these odds
    return torch.cat([first, keys.topk(num_places - 1, dim=1).indices], dim=1)


def _gumbel(shape: torch.Size, generator: torch.Generator) -> Tensor:
    return -torch.empty(shape, dtype=torch.float64).exponential_(generator=generator).log()
