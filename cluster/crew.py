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
from cluster.scoring import RewardFleet
from cluster.workers import (
    build_discriminator_worker,
    build_reward_source,
    build_rollout_worker,
    start_worker,
    thread_environment,
)

WEIGHTS = "weights"
"""Folder of a run's weight store."""


class Crew(NamedTuple):
    """All fleets of a run."""

    rollout: Fleet
    discriminator: Fleet | None
    rewards: dict[str, RewardFleet]

    def fleets(self) -> list[Fleet]:
        """Return every fleet there is."""
        scorers = [self.discriminator] if self.discriminator else []
        return [self.rollout, *scorers, *(source.fleet for source in self.rewards.values())]


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
    rollout, discriminator = config.rollout, config.discriminator
    crew = Crew(
        rollout=make(
            "rollout",
            functools.partial(build_rollout_worker, config, run_dir / WEIGHTS),
            resources=(rollout.cpus_per_worker, rollout.gpus_per_worker),
            environment=engine_environment(rollout),
            sync=lambda handle, published: handle.call("sync_weights", published),
        ),
        discriminator=make(
            "discriminator",
            functools.partial(build_discriminator_worker, config),
            resources=(discriminator.cpus_per_worker, discriminator.gpus_per_worker),
            environment=thread_environment(discriminator.cpus_per_worker),
            sync=lambda handle, version: handle.call("load", version[-1]),
        )
        if config.objective.steps and config.objective.divergence_weight
        else None,
        rewards={
            name: RewardFleet(
                make(
                    name,
                    functools.partial(build_reward_source, source, config.model.name),
                    resources=(1.0, 0.0),
                    environment=thread_environment(1.0),
                ),
                source.weight,
            )
            for name, source in reward_names(config.rewards).items()
        },
    )
    crew.rollout.scale(rollout.num_workers)
    if crew.discriminator:
        crew.discriminator.scale(discriminator.num_workers)
    for reward, source in zip(crew.rewards.values(), config.rewards, strict=True):
        reward.fleet.scale(source.num_workers)
    return crew


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
