"""Checks of the rows in tokens. Imports transformers, but not torch."""

import sys

from actors.errors import InvalidInputError
from actors.response_metric import MetricError, ResponseMetric, summary
from alignment.data.chat_template import end_token_id, end_token_ids
from alignment.data.splits import held_out_sample
from alignment.data.tokenized import TokenizedDemonstrations
from cluster.config.datasets import Rows, RunData, tokenize_data
from cluster.config.run_config import RunConfig
from cluster.resources.model_files import policy_files
from cluster.validation.preference_data import check_preference_data

MAX_GROUPS = 8
"""Groups of evaluation.group_by, each of which is a panel of the report."""


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
        _check_best(config, {"all"})
        return
    groups = {str(each[evaluation.group_by]) for each in columns}
    _check_best(config, groups)
    if len(groups) > MAX_GROUPS:
        raise InvalidInputError(
            f"evaluation.group_by: the column {evaluation.group_by} has {len(groups)} different "
            f"values in the evaluation set, and a report shows at most {MAX_GROUPS} groups; name a "
            "column with fewer"
        )


def _check_best(config: RunConfig, groups: set[str]) -> None:
    best = config.evaluation.best
    if best and best.metric.rpartition("/")[0] not in groups:
        raise InvalidInputError(
            f"evaluation.best.metric: {best.metric} is of a group that the evaluation set does not "
            f"have; its groups are {', '.join(sorted(groups))}; write GROUP/CATEGORY"
        )
