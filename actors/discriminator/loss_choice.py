"""The loss that trains a discriminator, and the combinations of settings that have none."""

from typing import assert_never

import torch
from torch import Tensor

from actors.config.choices import Level
from actors.config.scorers import DiscriminatorConfig
from actors.errors import InvalidInputError
from alignment.discriminator.losses import (
    cross_entropy_costs,
    least_squares_costs,
    variational_costs,
    wasserstein_costs,
)
from alignment.divergences.record import Divergence


def is_critic(divergence: Divergence) -> bool:
    """Whether the logit is Wasserstein's critic instead of a log-ratio."""
    return divergence.name == "wasserstein"


def is_per_token(level: Level) -> bool:
    """Whether every prefix of a response has a logit of its own."""
    return level in ("token", "occupancy")


def require_possible(config: DiscriminatorConfig, level: Level, divergence: Divergence) -> None:
    """Raise InvalidInputError if no discriminator can be trained with these settings.

    Args:
        divergence: whose reward is computed from the logit.
    """
    if level == "state":
        raise InvalidInputError(
            "objective.level = state compares a teacher's next-token distributions with the "
            "policy's and has no discriminator; set teacher, or objective.level to trajectory, "
            "token or occupancy"
        )
    if config.gradient_penalty and config.gpus_per_worker:
        raise InvalidInputError(
            f"discriminator.gradient_penalty = {config.gradient_penalty} needs second "
            f"derivatives, which attention on a GPU does not have here; set it to 0, or "
            f"discriminator.gpus_per_worker to 0"
        )
    if is_critic(divergence):
        _require_possible_critic(config, level)
    elif config.loss == "pairwise" and is_per_token(level):
        raise InvalidInputError(
            f"discriminator.loss = pairwise compares whole responses, but objective.level = "
            f"{level} needs logits of prefixes, which have no counterpart of the other class; "
            f"set the loss to cross_entropy, or the level to trajectory"
        )
    elif config.loss == "variational":
        try:
            divergence.critic(torch.zeros(1))
        except ValueError as error:
            raise InvalidInputError(f"discriminator.loss = variational: {error}") from error


def _require_possible_critic(config: DiscriminatorConfig, level: Level) -> None:
    """Raise InvalidInputError for settings that leave a Wasserstein critic without a bound."""
    if config.loss != "cross_entropy":
        raise InvalidInputError(
            f"discriminator.loss = {config.loss} trains a log-ratio, but objective.divergence = "
            f"wasserstein trains a critic with a loss of its own, E_policy[T] - E_expert[T]; leave "
            f"discriminator.loss out"
        )
    if not config.gradient_penalty:
        raise InvalidInputError(
            "discriminator.gradient_penalty = 0 leaves the critic of objective.divergence = "
            "wasserstein without a limit on its slope; set it above 0, 10 for example"
        )
    if is_per_token(level):
        raise InvalidInputError(
            f"objective.divergence = wasserstein has no objective.level = {level}: expert and "
            f"policy have different numbers of prefixes, so adding a constant to the critic would "
            f"lower its loss without bound; set the level to trajectory"
        )


def logit_costs(
    logits: Tensor, is_expert: Tensor, config: DiscriminatorConfig, divergence: Divergence
) -> Tensor:
    """Return the cost [logit] of each logit by itself, differentiable.

    Args:
        logits: [logit] high for expert.
        is_expert: [logit]
        config: chooses the loss, unless the divergence has one of its own.

    Raises:
        ValueError: for the pairwise loss, which has no costs of single logits.
    """
    smoothing = config.label_smoothing
    if is_critic(divergence):
        return wasserstein_costs(logits, is_expert)
    match config.loss:
        case "cross_entropy":
            return cross_entropy_costs(logits, is_expert, label_smoothing=smoothing)
        case "least_squares":
            return least_squares_costs(logits, is_expert, label_smoothing=smoothing)
        case "variational":
            return variational_costs(logits, is_expert, divergence, label_smoothing=smoothing)
        case "pairwise":
            raise ValueError(
                "the pairwise loss has no costs of single logits; use pairwise_expansion"
            )
        case _:
            assert_never(config.loss)
