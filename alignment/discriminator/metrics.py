"""Metrics of a discriminator, from its logits on responses that it was not trained on."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from alignment.discriminator.labelled_batch import LabelledBatch
from alignment.discriminator.losses import length_slope


def area_under_curve(
    expert_logits: Float[Tensor, " expert"], policy_logits: Float[Tensor, " policy"]
) -> Float[Tensor, ""]:
    """Return the probability that an expert response has a higher logit than a policy response.

    That is the area under the ROC curve. Chance is 0.5, and equal logits count half. In contrast to
    accuracy it does not depend on the offset of the logits, which cancels in advantages too.
    """
    ascending = policy_logits.detach().sort().values
    expert = expert_logits.detach()
    below = torch.searchsorted(ascending, expert) + torch.searchsorted(
        ascending, expert, right=True
    )
    return (below.double() / 2).mean() / len(ascending)


def discriminator_estimates(
    expert_logits: Float[Tensor, " expert"], policy_logits: Float[Tensor, " policy"]
) -> dict[str, Tensor]:
    """Estimate divergences and the discriminator's accuracy from logits on fresh responses.

    For the optimal discriminator, h = log(expert / policy), each estimate is exact in expectation
    on responses that it was not trained on. For another one it is neither exact nor a bound.

    Args:
        expert_logits: expert-positive logits of held-out or not yet seen demonstrations.
        policy_logits: the same of fresh responses of the policy to the same prompts.

    Returns:
        accuracy: mean of the two classes' fractions on the right side of 0; logits of 0 count half.
        auc: area_under_curve.
        logit_expert, logit_policy: mean logits.
        calibration_expert, calibration_policy: E_expert[1 - D] and E_policy[D]; equal when the
            discriminator is calibrated, 0.5 when expert and policy are indistinguishable.
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
        "auc": area_under_curve(expert, policy),
        "logit_expert": expert.mean(),
        "logit_policy": policy.mean(),
        "calibration_expert": torch.sigmoid(-expert).mean(),
        "calibration_policy": torch.sigmoid(policy).mean(),
        "forward_kl_estimate": expert.mean(),
        "reverse_kl_estimate": -policy.mean(),
        "jensen_shannon_estimate": math.log(2.0) - 0.5 * cross_entropies,
    }


class FreshLogits(NamedTuple):
    """Logits on whole responses that the discriminator was not trained on."""

    batch: LabelledBatch
    """Rollouts of this step, and the demonstrations of their prompts."""
    logits: Float[Tensor, " trajectory"]
    """Logits of the responses in batch."""
    held_out_logits: Float[Tensor, " held_out"]
    """Logits of demonstrations in the evaluation set; may be empty."""


def fresh_metrics(fresh: FreshLogits) -> dict[str, float]:
    """Compute the metrics of the discriminator on fresh responses.

    The demonstrations of this step are fresh in the first epoch only; those of the evaluation set
    always are.

    Returns:
        discriminator_estimates of the rollouts of this step and the demonstrations of the
        evaluation set, with accuracy and AUC as accuracy_held_out and auc_held_out, or of those of
        this step if the set is empty. logit_expert, accuracy_fresh and auc_fresh are always of this
        step's demonstrations; the last two are 0.5 while all logits are 0. length_slope is over the
        rollouts.
    """
    is_expert = fresh.batch.is_expert
    expert, policy = fresh.logits[is_expert], fresh.logits[~is_expert]
    metrics: dict[str, float] = {}
    estimates = discriminator_estimates(expert, policy)
    of_this_step = {name: estimates[name] for name in ("accuracy", "auc", "logit_expert")}
    if len(fresh.held_out_logits):
        estimates = discriminator_estimates(fresh.held_out_logits, policy)
        metrics |= {f"{name}_held_out": float(estimates[name]) for name in ("accuracy", "auc")}
    metrics |= {name: float(value) for name, value in (estimates | of_this_step).items()}
    metrics |= {f"{name}_fresh": metrics.pop(name) for name in ("accuracy", "auc")}
    lengths = torch.from_numpy(fresh.batch.trajectories.response_lengths)[~is_expert]
    metrics["length_slope"] = length_slope(policy, lengths)
    return metrics
