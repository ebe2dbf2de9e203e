"""The reward_model section of a job file, and what each rank of the training gets."""

from collections.abc import Mapping
from typing import NamedTuple

from pydantic import Field

from actors.config.choices import FrozenConfig
from actors.config.learner import LearnerConfig
from actors.config.scorers import DiscriminatorConfig


class RewardModelConfig(FrozenConfig):
    """How `irlign reward-model train` trains; its options override these settings."""

    num_members: int = Field(1, gt=0)
    """Reward models of an ensemble. One is trained on all training rows, several each on a
    bootstrap of them."""
    num_epochs: int = Field(1, gt=0)
    """Passes of each member over its rows."""
    comparisons_per_step: int = Field(32, gt=0)
    """Comparisons of an optimizer step, over all ranks."""


class RewardModelSettings(NamedTuple):
    """Settings of one training; equal on all ranks."""

    model: str
    """Folder or hub name of the causal language model to begin from."""
    likelihood: str
    """Name of a preference likelihood."""
    likelihood_parameters: Mapping[str, float]
    """What it takes; a share of ties is learned."""
    discriminator: DiscriminatorConfig
    """How the model is built: num_layers, tuning, learning_rate and weight_decay are used."""
    learner: LearnerConfig
    """autocast and max_tokens_per_microbatch are used."""
    num_members: int
    """Of the ensemble; one alone learns from all training rows, several each from a resample."""
    num_epochs: int
    comparisons_per_step: int
    """Rows in one optimizer step, over all ranks."""
    seed: int
