"""The settings of reward-model training."""

from collections.abc import Mapping
from typing import NamedTuple

from actors.config.learner import LearnerConfig
from actors.config.scorers import DiscriminatorConfig


class RewardModelSettings(NamedTuple):
    """What training is told; equal on all ranks."""

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
