"""Everything that can be known to be wrong with a reward model's job before anything starts."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
from transformers import AutoConfig

from actors.errors import InvalidInputError
from actors.preferences_config import LikelihoodName, PreferencesConfig
from actors.reward_model_files import empty_classifier
from actors.reward_model_trainer import RewardModelSettings
from alignment.data.tokenized_comparisons import TokenizedComparisons
from alignment.reward_model import count_ties
from cluster.config import RunConfig
from cluster.manifest import write_atomically
from cluster.model_files import policy_files
from cluster.placement import (
    ACTIVATIONS_PER_LAYER,
    GIB,
    PROCESS_GIB,
    TRAINED_BYTES,
    ModelSize,
    Plan,
    WorkerPlan,
)
from cluster.preflight import check_microbatch, check_windows, resources
from cluster.room import shortage
from cluster.run_data import load_comparisons
from cluster.run_directory import check_disk
from cluster.trust import check_trust

RECORD = "reward_model_job.json"
"""In the run directory: what its members were told, so that no other job goes on with them."""


class Training(NamedTuple):
    """What the command line says."""

    num_members: int
    num_epochs: int
    comparisons_per_step: int


class Findings(NamedTuple):
    """What the checks found out, all of it fit to train."""

    data: TokenizedComparisons
    plan: Plan


def check(
    config: RunConfig, training: Training, run_dir: Path, cluster: Mapping[str, float]
) -> Findings:
    """Check a job against its files, its run directory and a cluster; the cheap checks come first.

    Args:
        config: the job.
        training: the command line.
        run_dir: where members go.
        cluster: amounts by Ray's names of them: CPU, GPU, and memory in bytes.

    Returns:
        What was found.

    Raises:
        InvalidInputError: at the first thing that would fail.
    """
    preferences = likelihood_config(config)
    check_trust(config, run_dir)
    model = policy_files(config.model.name)
    check_windows(config, model)
    _check_record(config, training, run_dir)
    plan = _plan(config, model.size)
    if missing := shortage(plan, cluster):
        raise InvalidInputError(
            f"the reward model needs {missing}; lower learner.num_ranks, learner.cpus_per_rank or "
            "learner.gpus_per_rank"
        )
    if plan.memory_gib > (there := resources(cluster).memory_gib):
        raise InvalidInputError(
            f"the reward model is expected to take {plan.memory_gib:.1f} GiB of memory, Ray "
            f"included, and the cluster has {there:.1f} GiB; lower discriminator.num_layers or "
            "learner.max_tokens_per_microbatch, or use a smaller model"
        )
    check_disk(run_dir, 4 * model.size.num_parameters * training.num_members / GIB)
    empty_classifier(AutoConfig.from_pretrained(config.model.name))
    try:
        data = load_comparisons(config)
    except (OSError, ValueError) as error:
        raise InvalidInputError(str(error)) from error
    assert data  # likelihood_config has seen the path
    check_answers(data, preferences.objective)
    check_microbatch(data, config.learner.max_tokens_per_microbatch)
    return Findings(data, plan)


def likelihood_config(config: RunConfig) -> PreferencesConfig:
    """Return the section that a reward model is trained by.

    Raises:
        InvalidInputError: if it is not there, or names no data or no likelihood.
    """
    preferences = config.preferences
    if preferences is None or preferences.path is None:
        raise InvalidInputError(
            "a reward model learns from preferences, and the job has none; add preferences: "
            "{path: comparisons.jsonl}"
        )
    if preferences.objective not in get_args(LikelihoodName):
        raise InvalidInputError(
            f"preferences.objective: {preferences.objective} is an objective of a policy, and no "
            f"likelihood of answers; choose one of {', '.join(get_args(LikelihoodName))}"
        )
    if preferences.parameter("label_smoothing"):
        raise InvalidInputError(
            "preferences.parameters.label_smoothing is "
            f"{preferences.parameter('label_smoothing')}, which the training of a reward model "
            "does not know; add --set preferences.parameters.label_smoothing=0"
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


def write_record(config: RunConfig, training: Training, run_dir: Path) -> None:
    """Note what the members in this directory are told."""
    text = json.dumps(_record(config, training), indent=1)
    write_atomically(run_dir / RECORD, text + "\n")


def check_answers(data: TokenizedComparisons, name: str) -> None:
    """Refuse answers that a likelihood gives no probability.

    Args:
        data: what annotators said.
        name: of the likelihood.

    Raises:
        InvalidInputError: if there are single verdicts, or ties or preferences without strength
            that the likelihood cannot take, saying how many.
    """
    try:
        kind = data.answers
    except ValueError as error:
        raise InvalidInputError(f"preferences.path: {error}") from error
    if kind == "judgements":
        raise InvalidInputError(
            "preferences.path holds verdicts on single responses, and a reward model learns from "
            "comparisons; give pairs, ties or rankings"
        )
    sizes = np.diff(data.first).tolist()
    num_ties = count_ties(data.ranks, sizes)
    if num_ties and name not in ("rao_kupper", "davidson"):
        raise InvalidInputError(
            f"preferences.path holds {num_ties} ties, to which preferences.objective {name} gives "
            "no probability; choose rao_kupper or davidson, or leave the ties out"
        )
    lacking = [row + 1 for row, each in enumerate(data.rows) if each.strength is None]
    if lacking and name == "margin":
        raise InvalidInputError(
            f"{len(lacking)} of {len(data.rows)} rows of preferences.path have no strength, the "
            f"first is row {lacking[0]}, and preferences.objective margin needs it; add one to "
            "each, or choose bradley_terry"
        )


def _plan(config: RunConfig, size: ModelSize) -> Plan:
    """Say what the ranks take: memory as for a learner, with no reference."""
    learner, discriminator = config.learner, config.discriminator
    num_layers = discriminator.num_layers or size.num_layers
    is_trained = discriminator.tuning == "full"
    state = size.num_parameters * (TRAINED_BYTES if is_trained else 4) / learner.num_ranks
    activations = ACTIVATIONS_PER_LAYER * num_layers * size.hidden_size
    tokens = learner.max_tokens_per_microbatch
    host_gib = 0.0 if learner.gpus_per_rank else (state + activations * tokens) / GIB
    rank = WorkerPlan(
        "learner",
        learner.num_ranks,
        learner.cpus_per_rank,
        learner.gpus_per_rank,
        PROCESS_GIB + host_gib,
        "learner.num_ranks",
        "learner.cpus_per_rank",
    )
    return Plan((rank,), config.placement.phases_share_cpus)


def _record(config: RunConfig, training: Training) -> dict[str, object]:
    """Return all that a member's weights follow from, by the names that the user knows."""
    preferences = likelihood_config(config)
    found: dict[str, object] = {
        "seed": config.seed,
        "model.name": config.model.name,
        "preferences.path": str(preferences.path),
        "preferences.objective": preferences.objective,
        "preferences.parameters": preferences.objective_parameters,
        "learner.autocast": config.learner.autocast,
        "--epochs": training.num_epochs,
        "--comparisons-per-step": training.comparisons_per_step,
        "--members above 1": training.num_members > 1,
    }
    for name in ("num_layers", "tuning", "learning_rate"):
        found[f"discriminator.{name}"] = getattr(config.discriminator, name)
    for name in type(config.data).model_fields:
        if name != "path":
            found[f"data.{name}"] = getattr(config.data, name)
    return found


def _check_record(config: RunConfig, training: Training, run_dir: Path) -> None:
    """Refuse a directory that holds anything but members of the same job."""
    if not run_dir.exists() or (run_dir.is_dir() and not any(run_dir.iterdir())):
        return
    try:
        there = json.loads((run_dir / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"{run_dir} holds files but no readable {RECORD}, so it is no reward model's run; "
            "choose another --run-dir"
        ) from error
    here = json.loads(json.dumps(_record(config, training)))
    differing = [
        f"{name} ({there.get(name)} there, {here.get(name)} now)"
        for name in {**there, **here}
        if there.get(name) != here.get(name)
    ]
    if differing:
        raise InvalidInputError(
            f"{run_dir} belongs to another job, which differs in {', '.join(differing)}; use "
            "another --run-dir, or set it back to go on"
        )
