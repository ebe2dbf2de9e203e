"""Checks of `irlign reward-model train` before the first rank starts. Writes nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from transformers import AutoConfig

from actors.errors import InvalidInputError
from actors.reward_model.files import empty_classifier
from alignment.data.tokenized import TokenizedComparisons
from cluster.config.datasets import load_comparisons
from cluster.config.reward_model import likelihood_config, reward_model_section
from cluster.config.run_config import RunConfig
from cluster.resources.availability import missing_resources
from cluster.resources.memory import GIB, PROCESS_GIB, discriminator_memory
from cluster.resources.model_files import policy_files
from cluster.resources.model_shape import ModelShape
from cluster.resources.placement import Plan, WorkerPlan
from cluster.run_state.data_digests import (
    DataDigest,
    changed_data,
    digest_of,
    read_digests,
    refuse_changed_data,
)
from cluster.run_state.directory import check_disk, is_resumed
from cluster.validation.allowlist import check_allowlist
from cluster.validation.preference_data import check_preference_data
from cluster.validation.preflight import check_windows, resources


class RewardModelReport(NamedTuple):
    """Result of the checks of a job that can run."""

    data: TokenizedComparisons
    plan: Plan
    digests: Mapping[str, DataDigest]
    """Digest of the preferences."""


def check_reward_model(
    config: RunConfig, run_dir: Path, cluster: Mapping[str, float]
) -> RewardModelReport:
    """Check a job against its files, its run directory and a cluster; the cheap checks come first.

    Args:
        cluster: amounts by Ray's names of them: CPU, GPU, and memory in bytes.

    Raises:
        InvalidInputError: at the first thing that would fail.
    """
    preferences = likelihood_config(config)
    check_allowlist(config, run_dir)
    model = policy_files(config.model.name)
    check_windows(config, model)
    is_resumed(run_dir, config)
    plan = _plan(config, model.shape)
    if missing := missing_resources(plan, cluster):
        raise InvalidInputError(
            f"the reward model needs {missing}; lower learner.num_ranks, learner.cpus_per_rank or "
            "learner.gpus_per_rank"
        )
    there = resources(cluster)
    if plan.memory_gib > there.memory_gib:
        raise InvalidInputError(
            f"the reward model is expected to take {plan.memory_gib:.1f} GiB of memory, Ray "
            f"included, and the cluster has {there.memory_gib:.1f} GiB; lower "
            f"discriminator.num_layers or learner.max_tokens_per_microbatch, or use a smaller "
            f"model{there.memory_remedy}"
        )
    check_disk(
        run_dir, 4 * model.shape.num_parameters * reward_model_section(config).num_members / GIB
    )
    empty_classifier(AutoConfig.from_pretrained(config.model.name))
    data = load_comparisons(config)
    check_preference_data(data, preferences.objective, config.learner.max_tokens_per_microbatch)
    assert config.preferences
    digests = {"preferences": digest_of(str(config.preferences.path), data)}
    remedy = "use another --run-dir: members of one ensemble learn from the same comparisons"
    refuse_changed_data(run_dir, changed_data(read_digests(run_dir), digests), remedy)
    return RewardModelReport(data, plan, digests)


def _plan(config: RunConfig, shape: ModelShape) -> Plan:
    """Return the ranks, each with the memory of a discriminator worker, sharded."""
    learner, discriminator = config.learner, config.discriminator
    backbone = shape.first_layers(discriminator.num_layers)
    needed = discriminator_memory(discriminator, learner, backbone, "cpu", learner.num_ranks)
    rank = WorkerPlan(
        "learner",
        learner.num_ranks,
        learner.cpus_per_rank,
        learner.gpus_per_rank,
        "learner.num_ranks",
        "learner.cpus_per_rank",
        PROCESS_GIB if learner.gpus_per_rank else needed.gib,
    )
    return Plan((rank,), config.placement.phases_share_cpus)
