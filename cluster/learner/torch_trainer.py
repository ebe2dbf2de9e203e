"""Ray Train's trainer for the learner's ranks: how many, what each reserves, where they may run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.train
from ray.train import FailureConfig
from ray.train.torch import TorchConfig
from ray.train.v2.api.config import ScalingConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer

from cluster.config.run_config import RunConfig
from cluster.fleet.worker_factories import thread_environment
from cluster.learner.elastic_ranks import ElasticTrainer
from cluster.resources.placement import reserved_by_other_workers, reserved_cpus

RESIZE_EVERY_S = 60.0
"""Interval of the comparison of an elastic worker group with the free resources. A restart with
more ranks repeats the steps since the newest checkpoint, so not every new node causes one."""
COLLECTIVE_TIMEOUT_S = 300
"""A rank that waits longer for the others fails; its worker group restarts from a checkpoint."""


def torch_trainer(
    run_rank: Callable[[dict[str, Any]], None],
    rank_settings: dict[str, Any],
    config: RunConfig,
    run_dir: Path,
    *,
    name: str,
    max_failures: int = 0,
    resize_every_s: float = RESIZE_EVERY_S,
) -> TorchTrainer:
    """Return a trainer whose ranks each call run_rank(rank_settings).

    Args:
        resize_every_s: how often an elastic worker group is compared with the available resources.
    """
    learner = config.learner
    run_settings: dict[str, Any] = {  # Ray's stubs know only the older RunConfig
        "name": name,
        "storage_path": str(run_dir / "ray_train"),
        "failure_config": FailureConfig(max_failures=max_failures),
        "worker_runtime_env": {"env_vars": thread_environment(learner.cpus_per_rank)},
    }
    settings: dict[str, Any] = {
        "train_loop_config": rank_settings,
        "torch_config": TorchConfig(
            backend="nccl" if learner.gpus_per_rank else "gloo", timeout_s=COLLECTIVE_TIMEOUT_S
        ),
        "scaling_config": scaling_config(config, resize_every_s),
        "run_config": ray.train.RunConfig(**run_settings),
    }
    if learner.min_ranks is None:
        return TorchTrainer(run_rank, **settings)
    return ElasticTrainer(run_rank, others=reserved_by_other_workers(config), **settings)


def scaling_config(config: RunConfig, resize_every_s: float) -> ScalingConfig:
    """Return the job's number of ranks, their resources and labels in Ray Train's terms."""
    learner = config.learner
    cpus = reserved_cpus(learner.cpus_per_rank, shares_cpus=config.placement.phases_share_cpus)
    resources = {"CPU": cpus}
    if learner.gpus_per_rank:
        resources["GPU"] = learner.gpus_per_rank
    bounds = None if learner.min_ranks is None else (learner.min_ranks, learner.num_ranks)
    return ScalingConfig(
        num_workers=bounds or learner.num_ranks,
        use_gpu=bool(learner.gpus_per_rank),
        resources_per_worker=resources,
        label_selector=config.placement.node_labels.get("learner"),
        elastic_resize_monitor_interval_s=resize_every_s,
    )
