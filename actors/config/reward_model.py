"""The reward_model section of a job file, and the settings that each rank receives."""

from collections.abc import Mapping
from typing import NamedTuple

from pydantic import Field

from actors.config.choices import FrozenConfig
from actors.config.learner import LearnerConfig
from actors.config.scorers import DiscriminatorConfig


class RewardModelConfig(FrozenConfig):
    """Training of a reward model by `irlign reward-model train`, whose options override it."""

    num_members: int = Field(1, gt=0)
    """Number of reward models in the ensemble. A single one is trained on all training rows, each
    of several on a bootstrap sample of them."""
    num_epochs: int = Field(1, gt=0)
    """Number of passes of each member over its rows."""
    comparisons_per_step: int = Field(32, gt=0)
    """Number of comparisons per optimizer step, over all ranks."""


class RewardModelSettings(NamedTuple):
    """Settings of the training, equal on all ranks."""

    model: str
    """Folder or hub name of the causal language model whose weights are fine-tuned."""
    likelihood: str
    """Name of a preference likelihood."""
    likelihood_parameters: Mapping[str, float]
    """Parameters of the likelihood by name. Its tie parameter, if it has one, is learned."""
    discriminator: DiscriminatorConfig
    """Only num_layers, tuning and learning_rate are used."""
    learner: LearnerConfig
    """The ranks use only autocast and max_tokens_per_microbatch."""
    num_members: int
    """Number of members of the ensemble; see RewardModelConfig."""
    num_epochs: int
    comparisons_per_step: int
    """Number of rows per optimizer step, over all ranks."""
    seed: int
