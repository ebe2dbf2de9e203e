"""Synthetic annotators: they see true scores through noise, so what a model learns can be judged.

Every answer comes from perceived scores: the true score of each response plus noise of its own,
Gumbel or Gaussian. The response that is perceived as best is preferred, so Gumbel noise makes
Bradley-Terry's answers (a difference of two Gumbel numbers is logistic), rankings Plackett-Luce's,
and ties by a threshold Rao-Kupper's, while Gaussian noise makes Thurstone's, all exactly.

Who is compared with whom is not the annotators' choice. In uniform pairing all meet all alike. In
skewed pairing nearly equal responses meet, as when a system asks about pairs that it finds close,
with one comparison in ten drawn uniformly.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NUM_DOMAINS = 2
"""Response i is of domain i mod 2."""
SKEWED_RANKS = 1.5
"""In skewed pairing the odds of an opponent fall by e for so many places in the true order."""
UNIFORM_SHARE = 0.1
"""Of the comparisons in skewed pairing; they keep the order as a whole connected."""
STRENGTH_LEVELS = 3
"""Strengths are slightly better (0), better, and much better (2) up to a division by 2."""
STRENGTH_STEP = 1.5
"""Perceived difference, in units of scores, from one level of strength to the next."""

Pairing = Literal["uniform", "skewed"]


class Annotators(NamedTuple):
    """How a crowd of annotators answers."""

    name: str
    noise: Literal["gumbel", "gaussian"] = "gumbel"
    """Law of the noise on each response, of scale 1."""
    noise_by_domain: tuple[float, float] = (1.0, 1.0)
    """Factor of the noise on responses of each domain."""
    tie_threshold: float = 0.0
    """Perceived differences below this are called a tie; 0 allows none."""
    flipped: float = 0.0
    """Share of answers that are turned around, whatever was perceived."""
    num_places: int = 2
    """Responses in a comparison; more than two are ranked."""


class Judgments(NamedTuple):
    """What annotators said, by index of response."""

    ranked: Int[Tensor, "comparison place"]
    """The preferred response first."""
    is_tie: Bool[Tensor, " comparison"]
    strengths: Float[Tensor, " comparison"]
    """How much better first than second: 0, 1/2 or 1."""


def domains_of(num_responses: int) -> Int[Tensor, " response"]:
    """Return each response's domain."""
    return torch.arange(num_responses) % NUM_DOMAINS


def judge(
    annotators: Annotators,
    truth: Float[Tensor, " response"],
    pairing: Pairing,
    num_comparisons: int,
    generator: torch.Generator,
) -> Judgments:
    """Have responses compared.

    Args:
        truth: true scores.

    Returns:
        An answer for each comparison.
    """
    met = _opponents(truth, pairing, num_comparisons, annotators.num_places, generator)
    factors = torch.tensor(annotators.noise_by_domain, dtype=truth.dtype)[domains_of(len(truth))]
    if annotators.noise == "gumbel":
        noise = _gumbel(met.shape, generator)
    else:
        noise = torch.randn(met.shape, generator=generator, dtype=torch.float64)
    perceived, order = (truth[met] + factors[met] * noise).sort(dim=1, descending=True)
    gaps = perceived[:, 0] - perceived[:, 1]
    draws = torch.rand(num_comparisons, 1, generator=generator, dtype=torch.float64)
    order = torch.where(draws < annotators.flipped, order.flip(1), order)
    levels = (gaps / STRENGTH_STEP).floor().clamp(max=STRENGTH_LEVELS - 1)
    return Judgments(
        ranked=met.gather(1, order),
        is_tie=gaps < annotators.tie_threshold,
        strengths=levels / (STRENGTH_LEVELS - 1),
    )


def without_ties(judgments: Judgments) -> Judgments:
    """Leave out what annotators could not decide."""
    is_decided = ~judgments.is_tie
    return Judgments(*(answers[is_decided] for answers in judgments))


def in_pairs(judgments: Judgments) -> Judgments:
    """Split every ranking into its pairs, each with the strength of the whole."""
    num_places = judgments.ranked.shape[1]
    first, second = torch.triu_indices(num_places, num_places, offset=1)
    pairs = torch.stack([judgments.ranked[:, first], judgments.ranked[:, second]], dim=2)
    copies = len(first)
    return Judgments(
        pairs.reshape(-1, 2),
        judgments.is_tie.repeat_interleave(copies),
        judgments.strengths.repeat_interleave(copies),
    )


def _opponents(
    truth: Tensor,
    pairing: Pairing,
    num_comparisons: int,
    num_places: int,
    generator: torch.Generator,
) -> Int[Tensor, "comparison place"]:
    """Draw distinct responses: one uniformly, the others by how far they are in the true order."""
    num_responses = len(truth)
    rank = truth.argsort().argsort()
    first = torch.randint(num_responses, (num_comparisons, 1), generator=generator)
    distances = (rank - rank[first]).abs() / SKEWED_RANKS
    is_uniform = torch.rand(num_comparisons, 1, generator=generator) < UNIFORM_SHARE
    if pairing == "uniform":
        is_uniform = torch.ones_like(is_uniform)
    log_odds = torch.where(is_uniform, 0.0, -distances).scatter(1, first, -torch.inf)
    keys = log_odds + _gumbel(log_odds.shape, generator)  # the largest are draws by these odds
    return torch.cat([first, keys.topk(num_places - 1, dim=1).indices], dim=1)


def _gumbel(shape: torch.Size, generator: torch.Generator) -> Tensor:
    return -torch.empty(shape, dtype=torch.float64).exponential_(generator=generator).log()
