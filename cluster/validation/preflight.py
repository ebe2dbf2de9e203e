"""Everything that can be known to be wrong before the first worker starts. Writes nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape

from actors.config.preferences import FOR_REWARD_MODELS, PreferencesConfig
from actors.errors import InvalidInputError
from actors.rewards.sources import is_log_ratio, read_log_ratio
from alignment.data.tokenized import TokenizedComparisons, TokenizedDemonstrations
from cluster.config.run_config import RunConfig
from cluster.resources.memory import GIB
from cluster.resources.model_files import ModelFiles, policy_files, reward_model_files
from cluster.resources.model_shape import ModelShape
from cluster.resources.placement import Plan, Resources, plan
from cluster.run_state.directory import check_disk, is_resumed
from cluster.run_state.manifest import KEEP_CHECKPOINTS
from cluster.validation.allowlist import check_allowlist
from cluster.validation.preference_data import _check_answers, check_microbatch

CHECKPOINT_BYTES = 16
"""A parameter in a checkpoint: the policy in Hugging Face format, and weight, two moments of it."""


DISCRIMINATOR_BYTES = 12
"""A parameter of the discriminator in a checkpoint."""


PUBLISHED_BYTES = 3 * 4
"""A parameter in the weight store, which keeps three versions."""


class PreflightReport(NamedTuple):
    """What the checks found out, all of it fit to run."""

    model: ModelFiles
    data: "TokenizedDemonstrations"
    plan: Plan
    is_resumed: bool
    caveat: str | None = None
    """What to know of the chosen divergence before trusting it."""
    comparisons: "TokenizedComparisons | None" = None
    """Preferences, where the job gives some."""


def check(config: RunConfig, run_dir: Path | None, cluster: Mapping[str, float]) -> PreflightReport:
    """Check a job against its files, its run directory and a cluster; the cheap checks come first.

    Args:
        run_dir: where it shall run; None checks no directory.
        cluster: amounts by Ray's names of them: CPU, GPU, and memory in bytes.

    Returns:
        What was found.

    Raises:
        InvalidInputError: at the first thing that would fail.
    """
    check_allowlist(config, run_dir)
    is_old = is_resumed(run_dir, config) if run_dir else False
    model = policy_files(config.model.name)
    check_windows(config, model)
    rewards = [_reward_parameters(source.model) for source in config.rewards]
    teacher = _teacher_shape(config)
    made = plan(config, model.shape, rewards, resources(cluster), teacher)
    if run_dir:
        check_disk(run_dir, _disk_gib(config, model.shape, is_old=is_old))
    _check_reward_functions(config)
    caveat = _check_objective(config)
    if config.teacher:
        from actors.rewards.teacher_worker import check_teacher  # noqa: PLC0415

        check_teacher(config.teacher.model, config.model.name)
    data, comparisons = _checked_data(config)
    from cluster.validation.model_architecture import check_model_architectures  # noqa: PLC0415

    check_model_architectures(config)
    return PreflightReport(model, data, made, is_old, caveat, comparisons)


def resources(cluster: Mapping[str, float]) -> Resources:
    """Translate Ray's names of a cluster's resources; a cluster without GPUs does not name them."""
    memory_gib = cluster.get("memory", float("inf")) / GIB
    return Resources(cluster.get("CPU", 0.0), cluster.get("GPU", 0.0), memory_gib)


def check_windows(config: RunConfig, model: ModelFiles) -> None:
    """Refuse texts longer than the model's context, and more layers than it has."""
    prompt, response = config.data.max_prompt_tokens, config.data.max_response_tokens
    if model.max_tokens is not None and prompt + response > model.max_tokens:
        raise InvalidInputError(
            f"data.max_prompt_tokens + data.max_response_tokens = {prompt} + {response} = "
            f"{prompt + response} is more than the {model.max_tokens} tokens of the model's "
            "context; lower one of them"
        )
    num_layers = config.discriminator.num_layers
    if num_layers is not None and num_layers > model.shape.num_layers:
        raise InvalidInputError(
            f"discriminator.num_layers = {num_layers}, but the model has {model.shape.num_layers} "
            "layers; lower it, or leave it out to keep all"
        )


def _teacher_shape(config: RunConfig) -> ModelShape | None:
    if config.teacher is None:
        return None
    teacher = policy_files(config.teacher.model)
    wanted = config.data.max_prompt_tokens + config.data.max_response_tokens
    if teacher.max_tokens is not None and wanted > teacher.max_tokens:
        raise InvalidInputError(
            f"data.max_prompt_tokens + data.max_response_tokens = {wanted} is more than the "
            f"{teacher.max_tokens} tokens of the context of teacher.model; lower one of them"
        )
    return teacher.shape


def _reward_parameters(name: str | None) -> int | None:
    """Return the number of parameters that a reward source loads; None for a function."""
    if name is None:
        return None
    if not is_log_ratio(name):
        return reward_model_files(name).shape.num_parameters
    pair = read_log_ratio(name)
    policies = (pair.numerator, pair.denominator)
    return sum(policy_files(each).shape.num_parameters for each in policies)


def _disk_gib(config: RunConfig, shape: ModelShape, *, is_old: bool) -> float:
    """Return what a run writes at most: checkpoints, one more in the making, and weights."""
    bytes_a_parameter = CHECKPOINT_BYTES + (DISCRIMINATOR_BYTES if config.has_discriminator else 0)
    num_checkpoints = 1 if is_old else KEEP_CHECKPOINTS + 1
    in_all = num_checkpoints * bytes_a_parameter + PUBLISHED_BYTES
    return in_all * shape.num_parameters / GIB


def _check_reward_functions(config: RunConfig) -> None:
    for index, source in enumerate(config.rewards):
        if (source.model is None) == (source.function is None):
            raise InvalidInputError(f"rewards.{index} needs a model or a function, and not both")
        if source.function is not None:
            from actors.rewards.function_worker import load_reward_function  # noqa: PLC0415

            load_reward_function(source.function)


def _check_objective(config: RunConfig) -> str | None:
    """Build the divergence, see that what shall learn it can; return what to know of it."""
    from actors.discriminator.loss_choice import require_possible  # noqa: PLC0415
    from alignment.divergences.full_vocabulary import check_state_divergence  # noqa: PLC0415
    from alignment.divergences.lookup import divergence  # noqa: PLC0415

    objective = config.objective
    try:
        parameters = objective.divergence_parameters.given()
        record = divergence(objective.divergence, **parameters)
        if objective.level == "state":
            check_state_divergence(objective.divergence, parameters)
    except ValueError as error:
        raise InvalidInputError(f"objective.divergence: {error}") from error
    if config.has_discriminator:
        require_possible(config.discriminator, objective.level, record)
    if config.preferences:
        _check_preferences(config.preferences)
    return record.caveat


def _check_preferences(preferences: PreferencesConfig) -> None:
    """See that stage 2 can learn by this objective, and that the divergence implies a reward."""
    if preferences.objective in FOR_REWARD_MODELS:
        raise InvalidInputError(
            f"preferences.objective: {preferences.objective} needs "
            f"{FOR_REWARD_MODELS[preferences.objective]}, of which stage 2 learns nothing; choose "
            "bradley_terry, or train a reward model with it: irlign reward-model train"
        )
    from alignment.divergences.lookup import divergence  # noqa: PLC0415
    from alignment.preferences.implicit_reward import check_direct_divergence  # noqa: PLC0415

    try:
        name, parameters = preferences.divergence, preferences.divergence_parameters.given()
        check_direct_divergence(divergence(name, **parameters))
    except ValueError as error:
        raise InvalidInputError(f"preferences.divergence: {error}") from error


def _checked_data(
    config: RunConfig,
) -> "tuple[TokenizedDemonstrations, TokenizedComparisons | None]":
    """Load the data as the run will, and see that sampling will stop where demonstrations do."""
    from alignment.data.comparisons import read_comparisons  # noqa: PLC0415
    from alignment.data.demonstrations import read_demonstrations  # noqa: PLC0415

    try:
        if config.data.path:  # first alone, as the rest imports transformers
            read_demonstrations(config.data.path)
        if config.preferences and config.preferences.path:
            read_comparisons(config.preferences.path)

        from actors.model_files import end_token_ids  # noqa: PLC0415
        from alignment.data.chat_template import end_token_id  # noqa: PLC0415
        from cluster.config.datasets import load_comparisons, load_data  # noqa: PLC0415

        data, comparisons = load_data(config), load_comparisons(config)
        end, known = end_token_id(data.tokenizer), end_token_ids(config.model.name)
    except (OSError, ValueError) as error:
        raise InvalidInputError(str(error)) from error
    if end not in known:
        raise InvalidInputError(
            f"model {config.model.name}: its chat template ends a response with token {end}, but "
            f"sampling stops only at {known}; add {end} to eos_token_id in generation_config.json"
        )
    if comparisons and config.preferences:
        _check_answers(config.preferences, comparisons)
        check_microbatch(comparisons, config.learner.max_tokens_per_microbatch)
    return data, comparisons


def show_caveat(config: RunConfig, report: PreflightReport, console: Console) -> None:
    """Print what to know of the chosen divergence, if there is something."""
    if report.caveat:
        name = escape(config.objective.divergence)
        console.print(f"[yellow]{name}: {escape(report.caveat)}[/]", soft_wrap=True)
