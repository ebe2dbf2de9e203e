"""What a discriminator says of fresh responses before it has trained on them."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from alignment.discriminator import length_slope
from alignment.estimators import discriminator_estimates
from alignment.labelled_batch import LabelledBatch


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

    Args:
        judged: the verdicts.

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
