"""The sections of a job file that `irlign reward-model train` uses."""

from typing import get_args

from actors.config.preferences import LikelihoodName, PreferencesConfig
from actors.config.reward_model import RewardModelConfig, RewardModelSettings
from actors.errors import InvalidInputError
from cluster.config.run_config import RunConfig


def likelihood_config(config: RunConfig) -> PreferencesConfig:
    """Return the preferences section, on which a reward model is trained.

    Raises:
        InvalidInputError: if it is missing, has no path, or does not name a likelihood.
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
            "reward model does not support; add --set preferences.parameters.label_smoothing=0"
        )
    return preferences


def reward_model_job(config: RunConfig, **options: int | None) -> RunConfig:
    """Return a job whose reward_model section is complete: options, then the file, then defaults.

    Args:
        options: settings of the section; None leaves the job file's.
    """
    given = config.reward_model or RewardModelConfig()
    changes = {name: value for name, value in options.items() if value is not None}
    return config.model_copy(update={"reward_model": given.model_copy(update=changes)})


def reward_model_section(config: RunConfig) -> RewardModelConfig:
    """Return the reward_model section that reward_model_job has completed."""
    assert config.reward_model
    return config.reward_model


def settings_of(config: RunConfig) -> RewardModelSettings:
    """Return the settings that each rank receives."""
    preferences = likelihood_config(config)
    return RewardModelSettings(
        model=config.model.name,
        likelihood=preferences.objective,
        likelihood_parameters=preferences.objective_parameters,
        discriminator=config.discriminator,
        learner=config.learner,
        seed=config.seed,
        **reward_model_section(config).model_dump(),
    )
