"""The options of irlign reward-model train, and the settings that follow from them."""

from typing import NamedTuple, get_args

from actors.config.preferences import LikelihoodName, PreferencesConfig
from actors.config.reward_model import RewardModelSettings
from actors.errors import InvalidInputError
from cluster.config.run_config import RunConfig


class Training(NamedTuple):
    """What the command line says."""

    num_members: int
    num_epochs: int
    comparisons_per_step: int


def likelihood_config(config: RunConfig) -> PreferencesConfig:
    """Return the section that a reward model is trained by.

    Raises:
        InvalidInputError: if it is not there, or names no data or no likelihood.
    """
    preferences = config.preferences
    if preferences is None or preferences.path is None:
        raise InvalidInputError(
            "a reward model is trained on preferences, and the job has none; add preferences: "
            "{path: comparisons.jsonl}"
        )
    if preferences.objective not in get_args(LikelihoodName):
        raise InvalidInputError(
            f"preferences.objective: {preferences.objective} is an objective of a policy, not a "
            f"likelihood of labels; choose one of {', '.join(get_args(LikelihoodName))}"
        )
    if smoothing := preferences.parameters.label_smoothing:
        raise InvalidInputError(
            f"preferences.parameters.label_smoothing is {smoothing}, which the training of a "
            "reward model does not take; add --set preferences.parameters.label_smoothing=0"
        )
    return preferences


def settings_of(config: RunConfig, training: Training) -> RewardModelSettings:
    """Say what each rank is told."""
    preferences = likelihood_config(config)
    return RewardModelSettings(
        model=config.model.name,
        likelihood=preferences.objective,
        likelihood_parameters=preferences.objective_parameters,
        discriminator=config.discriminator,
        learner=config.learner,
        seed=config.seed,
        **training._asdict(),
    )
