"""Checks of `irlign check` and `irlign train` before the first worker starts. Writes nothing."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.markup import escape

from actors.errors import InvalidInputError
from actors.rewards.sources import is_log_ratio, read_log_ratio
from cluster.config.datasets import read_rows
from cluster.config.run_config import RunConfig
from cluster.resources.memory import GIB
from cluster.resources.model_files import ModelFiles, policy_files, reward_model_files
from cluster.resources.model_shape import ModelShape
from cluster.resources.placement import Plan, Resources, plan_workers
from cluster.run_state.data_digests import (
    DataDigest,
    changed_data,
    data_digests,
    read_digests,
    refuse_changed_data,
)
from cluster.run_state.directory import check_disk, is_resumed
from cluster.run_state.manifest import KEEP_CHECKPOINTS
from cluster.validation.allowlist import check_allowlist

if TYPE_CHECKING:
    from alignment.data.tokenized import TokenizedComparisons, TokenizedDemonstrations

OF_RAY_ALONE = "object_store_memory"
"""A resource that a Ray cluster has, and this machine without Ray has not."""
CHECKPOINT_BYTES = 16
"""Bytes of a policy parameter in a checkpoint: exported, and its weight and two moments."""
POLICY_BYTES = 4
"""Bytes of a parameter of the exported policy at the end of SFT, which is kept."""
DISCRIMINATOR_BYTES = 12
"""Bytes of a discriminator parameter in a checkpoint."""
PUBLISHED_BYTES = 3 * 4
"""Bytes of a parameter in the weight store, which keeps three versions."""


class PreflightReport(NamedTuple):
    """Result of the checks of a job that can run."""

    model: ModelFiles
    data: "TokenizedDemonstrations"
    plan: Plan
    caveat: str | None = None
    """Warning about the chosen divergence, if there is one."""
    comparisons: "TokenizedComparisons | None" = None
    """Rows of preferences.path, if it is given."""
    digests: Mapping[str, DataDigest] = {}
    """Digests of the data by section of the job."""
    changed_data: Sequence[str] = ()
    """Differences of the data from those that a resumed run was trained on."""


def check_run(
    config: RunConfig,
    run_dir: Path | None,
    cluster: Mapping[str, float],
    *,
    accept_changed_data: bool = False,
    begin_learning_check: Callable[[RunConfig], Callable[[], str | None]] | None = None,
) -> PreflightReport:
    """Check a job against its files, its run directory and a cluster; the cheap checks come first.

    Args:
        run_dir: the run's directory, existing or not; None checks no directory.
        cluster: amounts by Ray's names: CPU, GPU, and memory in bytes.
        accept_changed_data: whether a run may resume on other data than it was trained on.
        begin_learning_check: begins learning.check_learning elsewhere and returns what waits for
            its result; None does it here.

    Raises:
        InvalidInputError: at the first thing that would fail.
    """
    check_allowlist(config, run_dir)
    is_old = is_resumed(run_dir, config) if run_dir else False
    _check_reward_sources(config)
    model = policy_files(config.model.name)
    check_windows(config, model)
    rewards = [_reward_parameters(source.model) for source in config.rewards]
    teacher = _teacher_shape(config)
    made = plan_workers(config, model.shape, rewards, resources(cluster), teacher)
    if run_dir:
        check_disk(run_dir, _disk_gib(config, model.shape, is_old=is_old))
    rows = read_rows(config)
    # These imports take seconds; everything above answers at once.
    end_learning_check = (begin_learning_check or _check_learning)(config)
    from cluster.validation.tokens import tokenize_and_check  # noqa: PLC0415

    data = tokenize_and_check(config, rows)
    caveat = end_learning_check()
    digests = data_digests(config, data)
    changes = changed_data(read_digests(run_dir), digests) if run_dir else []
    if run_dir and not accept_changed_data:
        refuse_changed_data(run_dir, changes)
    return PreflightReport(
        model, data.demonstrations, made, caveat, data.comparisons, digests, changes
    )


def _check_learning(config: RunConfig) -> Callable[[], str | None]:
    from cluster.validation.learning import check_learning  # noqa: PLC0415 - imports torch

    caveat = check_learning(config)
    return lambda: caveat


def resources(cluster: Mapping[str, float]) -> Resources:
    """Return the resources of a cluster from Ray's amounts, which lack GPU where there is none."""
    memory_gib = cluster.get("memory", float("inf")) / GIB
    is_measured_now = OF_RAY_ALONE not in cluster
    return Resources(cluster.get("CPU", 0.0), cluster.get("GPU", 0.0), memory_gib, is_measured_now)


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
    """Return the maximum disk space of a run: checkpoints, one being written, and weights."""
    bytes_a_parameter = CHECKPOINT_BYTES + (DISCRIMINATOR_BYTES if config.has_discriminator else 0)
    num_checkpoints = 1 if is_old else KEEP_CHECKPOINTS + 1
    has_both_stages = config.sft.steps > 0 and config.objective.steps > 0
    kept_policy = POLICY_BYTES if has_both_stages else 0
    in_all = num_checkpoints * bytes_a_parameter + PUBLISHED_BYTES + kept_policy
    return in_all * shape.num_parameters / GIB


def _check_reward_sources(config: RunConfig) -> None:
    for index, source in enumerate(config.rewards):
        if (source.model is None) == (source.function is None):
            raise InvalidInputError(f"rewards.{index} needs a model or a function, and not both")


def print_caveat(config: RunConfig, report: PreflightReport, console: Console) -> None:
    """Print the warning about the chosen divergence, if there is one."""
    if report.caveat:
        name = escape(config.objective.divergence)
        console.print(f"[yellow]{name}: {escape(report.caveat)}[/]", soft_wrap=True)
