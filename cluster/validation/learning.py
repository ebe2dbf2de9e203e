"""Checks of what a run computes: its objective, rewards, teacher and tokens. Imports torch."""

import sys

from actors.config.preferences import FOR_REWARD_MODELS, PreferencesConfig
from actors.discriminator.loss_choice import require_possible
from actors.errors import InvalidInputError
from actors.model_files import end_token_ids
from actors.response_metric import MetricError, ResponseMetric, summary
from actors.rewards.function_worker import load_reward_function
from actors.rewards.teacher_worker import check_teacher
from alignment.data.chat_template import end_token_id
from alignment.data.splits import held_out_sample
from alignment.data.tokenized import TokenizedDemonstrations
from alignment.divergences.full_vocabulary import check_state_divergence
from alignment.divergences.lookup import divergence
from alignment.preferences.implicit_reward import check_direct_divergence
from cluster.config.datasets import Rows, RunData, tokenize_data
from cluster.config.run_config import RunConfig
from cluster.resources.model_files import policy_files
from cluster.validation.model_architecture import check_model_architectures
from cluster.validation.preference_data import check_preference_data

MAX_GROUPS = 8
"""Groups of evaluation.group_by, each of which is a panel of the report."""


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


def tokenize_and_check(config: RunConfig, rows: Rows) -> RunData:
    """Tokenize the rows, and refuse those that the run cannot be trained on.

    Raises:
        InvalidInputError: also if sampling would not stop where the demonstrations do.
    """
    data = tokenize_data(config, rows)
    try:
        end, known = end_token_id(data.demonstrations.tokenizer), end_token_ids(config.model.name)
    except (OSError, ValueError) as error:
        raise InvalidInputError(str(error)) from error
    if end not in known:
        raise InvalidInputError(
            f"model {config.model.name}: its chat template ends a response with token {end}, but "
            f"sampling stops only at {known}; add {end} to eos_token_id in generation_config.json"
        )
    _check_context(config, data.demonstrations)
    _check_metric(config, data.demonstrations)
    if data.comparisons and config.preferences:
        limit = config.learner.max_tokens_per_microbatch
        check_preference_data(data.comparisons, config.preferences.objective, limit)
    return data


def _check_context(config: RunConfig, data: TokenizedDemonstrations) -> None:
    """Refuse a prompt that is too long for a scorer together with its context."""
    prompts = data.scorer_prompts
    if prompts is None:
        return
    limits = {"learner.max_tokens_per_microbatch": config.learner.max_tokens_per_microbatch}
    if config.has_discriminator:
        limits["the context of the discriminator's model"] = _window(config.model.name)
    if config.teacher:
        limits["the context of teacher.model"] = _window(config.teacher.model)
    row = max(range(len(prompts)), key=lambda each: len(prompts[each]))
    prompt, response = len(prompts[row]), config.data.max_response_tokens
    for name, limit in limits.items():
        if prompt + response > limit:
            raise InvalidInputError(
                f"row {row + 1} of data.path: the prompt takes {prompt} tokens with its "
                f"{config.data.discriminator_context} (data.discriminator_context), and with a "
                f"response of data.max_response_tokens = {response} more than {name}, {limit}; "
                "shorten the context, or lower data.max_response_tokens"
            )


def _window(model: str) -> int:
    return policy_files(model).max_tokens or sys.maxsize


def _check_metric(config: RunConfig, data: TokenizedDemonstrations) -> None:
    """Refuse a metric that has no value for the demonstrations of the evaluation set."""
    evaluation = config.evaluation
    if evaluation.metric is None:
        return
    metric = ResponseMetric(evaluation.metric)
    rows = held_out_sample(data.held_out_rows, evaluation.num_prompts).tolist()
    columns = [data.columns(row) for row in rows]
    try:
        values = metric.values([(row, *data.texts(row)) for row in rows], columns)
        summary(values, ["all"] * len(values))
    except MetricError as error:
        raise InvalidInputError(f"{error}; it was called with the demonstration") from error
    if evaluation.group_by is None:
        return
    groups = {str(each[evaluation.group_by]) for each in columns}
    if len(groups) > MAX_GROUPS:
        raise InvalidInputError(
            f"evaluation.group_by: the column {evaluation.group_by} has {len(groups)} different "
            f"values in the evaluation set, and a report shows at most {MAX_GROUPS} groups; name a "
            "column with fewer"
        )
