"""Which costs train a discriminator, and which combinations of settings there are none for."""

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
    """Whether the logit is no log-ratio but Wasserstein's critic."""
    return divergence.name == "wasserstein"


def is_per_token(level: Level) -> bool:
    """Whether there is a verdict on every prefix of a response."""
    return level in ("token", "occupancy")


def require_possible(config: DiscriminatorConfig, level: Level, divergence: Divergence) -> None:
    """Refuse what cannot be trained.

    Args:
        divergence: whose reward the logit becomes.

    Raises:
        InvalidInputError: naming the setting and what to choose in its place.
    """
    if level == "state":
        raise InvalidInputError(
            "objective.level = state compares a teacher's vocabulary with the policy's and has no "
            "discriminator; set teacher, or objective.level to trajectory, token or occupancy"
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
            f"{level} needs verdicts on prefixes, which have no counterpart of the other class; "
            f"set the loss to cross_entropy, or the level to trajectory"
        )
    elif config.loss == "variational":
        try:
            divergence.critic(torch.zeros(1))
        except ValueError as error:
            raise InvalidInputError(f"discriminator.loss = variational: {error}") from error


def _require_possible_critic(config: DiscriminatorConfig, level: Level) -> None:
    """Refuse what leaves a Wasserstein critic without a bound."""
    if config.loss != "cross_entropy":
        raise InvalidInputError(
            f"discriminator.loss = {config.loss} trains a log-ratio, but objective.divergence = "
            f"wasserstein has a critic with a loss of its own, E_policy[T] - E_expert[T]; leave "
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
            f"policy have different numbers of prefixes, so a critic's level alone would make its "
            f"loss as low as it likes; set the level to trajectory"
        )


def verdict_costs(
    logits: Tensor, is_expert: Tensor, config: DiscriminatorConfig, divergence: Divergence
) -> Tensor:
    """Return the cost of each verdict by itself.

    Args:
        logits: [verdict], expert-positive.
        is_expert: [verdict]
        config: chooses the costs, unless the divergence has costs of its own.
        divergence: whose reward the logit becomes.

    Returns:
        [verdict], differentiable by the logits.

    Raises:
        ValueError: for the pairwise loss, which has no costs of single verdicts.
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
                "the pairwise loss is of pairs: alignment.discriminator.losses.pairwise_loss"
            )
        case _:
            assert_never(config.loss)
