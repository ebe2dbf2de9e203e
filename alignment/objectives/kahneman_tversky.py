"""Kahneman-Tversky optimization (KTO): single responses with desirable or undesirable labels."""

import torch
from jaxtyping import Float
from torch import Tensor

from alignment.mdp.segments import require_positive
from alignment.objectives.output import ObjectiveOutput
from alignment.preferences.implicit_reward import require_beta


def kahneman_tversky(
    log_ratios: Float[Tensor, " sequence"],
    ranks: Float[Tensor, " sequence"],
    *,
    reference_kl: float,
    beta: float,
    desirable_weight: float,
    undesirable_weight: float,
    num_sequences: int,
) -> ObjectiveOutput:
    """Bounded loss of the distance of each response from the wrong side of a reference point.

    With N labelled responses, l the log-ratio and z = max(0, reference_kl):

        desirable      desirable_weight (1 - sigmoid(beta (l - z)))
        undesirable    undesirable_weight (1 - sigmoid(beta (z - l)))

    and the loss is their sum over N. A response far from the reference point has a small gradient,
    so a wrong label has little effect, but so has one that is hard to learn. A pair counts as one
    desirable and one undesirable response.

    Args:
        log_ratios: l = log pi - log reference of whole responses in nats; the only input that
            receives a gradient.
        ranks: 0 for a desirable response, above 0 for an undesirable one, as in a pair. Leave ties
            out.
        reference_kl: estimate of KL(policy, reference) in nats over the whole step, the same on
            every rank; a constant for the gradient, and 0 where it is negative. The paper's is
            the mean log-ratio of responses under prompts of other ones.
        beta: inverse scale of the distance, per nat; positive.
        desirable_weight: weight of desirable responses, at least 0.
        undesirable_weight: weight of undesirable ones, at least 0. If there are more labels of one
            kind, weight times number should be about the same for both.
        num_sequences: N, in the optimizer step over all ranks and microbatches.

    Returns:
        This microbatch's term of the loss, without unit, and the diagnostics label_accuracy,
        the fraction of responses on their side of the reference point, and log_ratio_desirable and
        log_ratio_undesirable, in nats; each sums over its kind only, divided by N.

    Raises:
        ValueError: if num_sequences or beta is not positive, or a weight is negative.

    References:
        Ethayarajh et al. 2024, arXiv:2402.01306.
    """
    require_positive(num_sequences=num_sequences)
    require_beta(beta)
    if min(desirable_weight, undesirable_weight) < 0.0:
        raise ValueError(
            f"weights must be at least 0; they are {desirable_weight} and {undesirable_weight}, "
            "and a negative weight would reverse the label"
        )
    is_desirable = ranks == 0
    distances = log_ratios - max(0.0, reference_kl)
    distances = torch.where(is_desirable, distances, -distances)
    weights = torch.where(
        is_desirable,
        log_ratios.new_tensor(desirable_weight),
        log_ratios.new_tensor(undesirable_weight),
    )
    loss = (weights * torch.sigmoid(-beta * distances)).sum() / num_sequences
    ratios = log_ratios.detach() / num_sequences
    right = 0.5 + 0.5 * distances.detach().sign()
    diagnostics = {
        "label_accuracy": right.sum() / num_sequences,
        "log_ratio_desirable": ratios[is_desirable].sum(),
        "log_ratio_undesirable": ratios[~is_desirable].sum(),
    }
    return ObjectiveOutput(loss, diagnostics)
