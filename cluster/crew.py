"""The fleets of a run, of the sizes in its job file."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from actors.config import RewardConfig
from actors.vllm_engine import engine_environment
from cluster.config import RunConfig
from cluster.fleet import Fleet
from cluster.handle import Handle
from cluster.scoring import Judges, RewardFleet
from cluster.workers import (
    build_discriminator_worker,
    build_reward_source,
    build_rollout_worker,
    build_teacher_worker,
    start_worker,
    thread_environment,
)

WEIGHTS = "weights"
"""Folder of a run's weight store."""


class Crew(NamedTuple):
    """All fleets of a run."""

    rollout: Fleet
    judges: Judges

    def fleets(self) -> list[Fleet]:
        """Return every fleet there is."""
        discriminator, teacher, rewards = self.judges
        judges = [fleet for fleet in (discriminator, teacher) if fleet]
        return [self.rollout, *judges, *(source.fleet for source in rewards.values())]


def hire(config: RunConfig, run_dir: Path, on_event: Callable[[str], None]) -> Crew:
    """Make the fleets a run needs and start their workers.

    Args:
        config: of the run.
        run_dir: where its weight store is.
        on_event: told of every loss and restart.

    Returns:
        The fleets; their workers come up meanwhile.
    """
    make = functools.partial(_fleet, config, on_event)
    rollout = make(
        "rollout",
        functools.partial(build_rollout_worker, config, run_dir / WEIGHTS),
        resources=(config.rollout.cpus_per_worker, config.rollout.gpus_per_worker),
        environment=engine_environment(config.rollout),
        sync=lambda handle, published: handle.call("sync_weights", published),
    )
    rollout.scale(config.rollout.num_workers)
    discriminator, teacher = None, None
    if config.has_discriminator:
        worker = config.discriminator
        discriminator = make(
            "discriminator",
            functools.partial(build_discriminator_worker, config),
            resources=(worker.cpus_per_worker, worker.gpus_per_worker),
            environment=thread_environment(worker.cpus_per_worker),
            sync=lambda handle, version: handle.call("load", version[-1]),
        )
        discriminator.scale(worker.num_workers)
    if config.teacher and config.has_teacher:
        teacher = make(
            "teacher",
            functools.partial(build_teacher_worker, config, config.teacher),
            resources=(config.teacher.cpus_per_worker, config.teacher.gpus_per_worker),
            environment=thread_environment(config.teacher.cpus_per_worker),
        )
        teacher.scale(config.teacher.num_workers)
    rewards = {}
    for name, source in reward_names(config.rewards).items():
        fleet = make(
            name,
            functools.partial(build_reward_source, source, config.model.name),
            resources=(1.0, 0.0),
            environment=thread_environment(1.0),
        )
        fleet.scale(source.num_workers)
        rewards[name] = RewardFleet(fleet, source.weight, source.on_error)
    return Crew(rollout, Judges(discriminator, teacher, rewards))


def reward_names(sources: tuple[RewardConfig, ...]) -> dict[str, RewardConfig]:
    """Name each reward source after its model or function, with a number if names repeat."""
    named: dict[str, RewardConfig] = {}
    for source in sources:
        full = source.model or str(source.function)
        name = full.rstrip("/").replace(":", "/").rsplit("/", maxsplit=1)[-1]
        named[name if name not in named else f"{name}-{len(named)}"] = source
    return named


def _fleet(
    config: RunConfig,
    on_event: Callable[[str], None],
    kind: str,
    build: Callable[[], Any],
    *,
    resources: tuple[float, float],
    environment: dict[str, str],
    sync: Callable[[Handle, Any], Any] | None = None,
) -> Fleet:
    def start(name: str) -> Handle:
        return start_worker(
            name,
            build,
            cpus=resources[0],
            gpus=resources[1],
            shares_cpus=config.placement.phases_share_cpus,
            environment=environment,
        )

    return Fleet(kind, start, timeout_s=config.placement.timeout_s, sync=sync, on_event=on_event)
