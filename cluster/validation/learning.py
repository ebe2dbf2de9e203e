"""Checks of what a run computes: its objective, rewards, teacher and models. Imports torch."""

from actors.config.preferences import FOR_REWARD_MODELS, PreferencesConfig
from actors.discriminator.loss_choice import require_possible
from actors.errors import InvalidInputError
from actors.rewards.function_worker import load_reward_function
from actors.rewards.teacher_worker import check_teacher
from alignment.divergences.full_vocabulary import check_state_divergence
from alignment.divergences.lookup import divergence
from alignment.preferences.implicit_reward import check_direct_divergence
from cluster.config.run_config import RunConfig
from cluster.validation.model_architecture import check_model_architectures


def check_learning(config: RunConfig) -> str | None:
    """Refuse an objective, a reward function or a teacher that cannot be used.

    Returns:
        What to know of the chosen divergence, if there is something.

    Raises:
        InvalidInputError: naming the setting and the remedy.
    """
    for source in config.rewards:
        if source.function is not None:
            load_reward_function(source.function)
    caveat = _check_divergence(config)
    if config.preferences:
        _check_preferences(config.preferences)
    if config.teacher:
        check_teacher(config.teacher.model, config.model.name)
    check_model_architectures(config)
    return caveat


def _check_divergence(config: RunConfig) -> str | None:
    objective, parameters = config.objective, config.objective.divergence_parameters.given()
    try:
        record = divergence(objective.divergence, **parameters)
        if objective.level == "state":
            check_state_divergence(objective.divergence, parameters)
    except ValueError as error:
        raise InvalidInputError(f"objective.divergence: {error}") from error
    if config.has_discriminator:
        require_possible(config.discriminator, objective.level, record)
    return record.caveat


def _check_preferences(preferences: PreferencesConfig) -> None:
    """Refuse an objective that needs more than ranks, and a divergence that implies no reward."""
    if preferences.objective in FOR_REWARD_MODELS:
        raise InvalidInputError(
            f"preferences.objective: {preferences.objective} needs "
            f"{FOR_REWARD_MODELS[preferences.objective]}, which stage 2 does not have; choose "
            "bradley_terry, or train a reward model with it: irlign reward-model train"
        )
    try:
        name, parameters = preferences.divergence, preferences.divergence_parameters.given()
        check_direct_divergence(divergence(name, **parameters))
    except ValueError as error:
        raise InvalidInputError(f"preferences.divergence: {error}") from error
