"""Metrics of a discriminator, from its logits on responses that it was not trained on."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from alignment.discriminator.labelled_batch import LabelledBatch
from alignment.discriminator.losses import length_slope


def discriminator_estimates(
    expert_logits: Float[Tensor, " expert"], policy_logits: Float[Tensor, " policy"]
) -> dict[str, Tensor]:
    """What logits on fresh responses say of the divergences, and of the discriminator itself.

    Each estimate is exact in expectation for the optimal discriminator, h = log(expert / policy),
    on responses that it was not trained on; a poor discriminator makes it no bound on anything.

    Args:
        expert_logits: expert-positive logits of held-out or not yet seen demonstrations.
        policy_logits: the same of fresh responses of the policy to the same prompts.

    Returns:
        accuracy: mean of the two classes' shares on the right side of 0; a logit of 0 counts half.
        logit_expert, logit_policy: mean logits.
        calibration_expert, calibration_policy: E_expert[1 - D] and E_policy[D]; equal when the
            discriminator is calibrated, 0.5 when expert and policy cannot be told apart.
        forward_kl_estimate, reverse_kl_estimate, jensen_shannon_estimate: E_expert[h],
            -E_policy[h], and log 2 minus half the sum of the two cross-entropies, in nats.

    Raises:
        ValueError: if there are no responses of one kind.
    """
    if not len(expert_logits) or not len(policy_logits):
        raise ValueError(
            "estimates need expert and policy responses, "
            f"got {len(expert_logits)} and {len(policy_logits)}"
        )
    expert, policy = expert_logits.detach(), policy_logits.detach()
    cross_entropies = softplus(-expert).mean() + softplus(policy).mean()
    return {
        "accuracy": 0.5 + 0.25 * (expert.sign().mean() - policy.sign().mean()),
        "logit_expert": expert.mean(),
        "logit_policy": policy.mean(),
        "calibration_expert": torch.sigmoid(-expert).mean(),
        "calibration_policy": torch.sigmoid(policy).mean(),
        "forward_kl_estimate": expert.mean(),
        "reverse_kl_estimate": -policy.mean(),
        "jensen_shannon_estimate": math.log(2.0) - 0.5 * cross_entropies,
    }


class Judged(NamedTuple):
    """Verdicts on whole responses, by a discriminator that has not trained on them."""

    fresh: LabelledBatch
    """Rollouts of this step, and the demonstrations of their prompts."""
    logits: Float[Tensor, " trajectory"]
    """Of the fresh batch."""
    held_out_logits: Float[Tensor, " held_out"]
    """Of demonstrations that are never trained on; there may be none."""


def fresh_figures(judged: Judged) -> dict[str, float]:
    """Summarize verdicts.

    The demonstrations of this step are new to it only in the first epoch, and the longer the run
    the better the discriminator knows them; those held out it does not know.

    Returns:
        What discriminator_estimates says, of rollouts of this step and of demonstrations held out
        or, where there are none, of those of this step; its accuracy as accuracy_held_out, only
        where there are some. logit_expert and accuracy_fresh are always of this step's (0.5 while
        all logits are 0, since a tie counts half). length_slope is over the rollouts.
    """
    is_expert = judged.fresh.is_expert
    expert, policy = judged.logits[is_expert], judged.logits[~is_expert]
    figures = {}
    estimates = discriminator_estimates(expert, policy)
    of_this_step = {name: estimates[name] for name in ("accuracy", "logit_expert")}
    if len(judged.held_out_logits):
        estimates = discriminator_estimates(judged.held_out_logits, policy)
        figures["accuracy_held_out"] = float(estimates["accuracy"])
    figures |= {name: float(value) for name, value in (estimates | of_this_step).items()}
    figures["accuracy_fresh"] = figures.pop("accuracy")
    lengths = torch.from_numpy(judged.fresh.trajectories.response_lengths)[~is_expert]
    figures["length_slope"] = length_slope(policy, lengths)
    return figures
