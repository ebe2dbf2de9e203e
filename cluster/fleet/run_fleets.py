"""The fleets of a run, with the sizes in its job file."""

import functools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from actors.errors import WeightMismatchError
from actors.messages import Published
from actors.rollout.engine import engine_environment
from cluster.config.run_config import RunConfig
from cluster.config.worker_counts import job_sizes, reward_names
from cluster.fleet.fleet import Fleet, Reports
from cluster.fleet.members import Handle
from cluster.fleet.ray_worker import start_worker
from cluster.fleet.score_requests import RewardFleet, Scorers
from cluster.fleet.worker_factories import (
    build_discriminator_worker,
    build_reward_source,
    build_rollout_worker,
    build_teacher_worker,
    thread_environment,
)
from cluster.run_state.files import WEIGHTS


class WorkerResources(NamedTuple):
    """Resources that a worker reserves on its node, and labels that the node must have."""

    cpus: float
    gpus: float
    labels: dict[str, str] | None


class RunFleets(NamedTuple):
    """All fleets of a run."""

    rollout: Fleet
    scorers: Scorers

    def all(self) -> list[Fleet]:
        """Return every fleet of the run."""
        discriminator, teacher, rewards = self.scorers
        scorers = [fleet for fleet in (discriminator, teacher) if fleet]
        return [self.rollout, *scorers, *(source.fleet for source in rewards.values())]


def start_fleets(
    config: RunConfig,
    run_dir: Path,
    reports: Reports,
    on_damage: Callable[[Exception], Awaitable[None]],
) -> RunFleets:
    """Make the fleets that a run needs, and return them while their workers start.

    Args:
        reports: functions for events and started workers.
        on_damage: called when published weights fail their checksum or canary; publishes them
            again.
    """
    make = functools.partial(_fleet, config, reports)
    labels = config.placement.node_labels
    rollout = make(
        "rollout",
        functools.partial(build_rollout_worker, config, run_dir / WEIGHTS),
        resources=WorkerResources(
            config.rollout.cpus_per_worker, config.rollout.gpus_per_worker, labels.get("rollout")
        ),
        environment=engine_environment(config.rollout),
        sync=WeightSync(on_damage, reports.event),
        syncs_while_serving=config.rollout.interrupt == "keep",
    )
    discriminator, teacher = None, None
    if config.has_discriminator:
        worker = config.discriminator
        discriminator = make(
            "discriminator",
            functools.partial(build_discriminator_worker, config),
            resources=WorkerResources(
                worker.cpus_per_worker, worker.gpus_per_worker, labels.get("discriminator")
            ),
            environment=thread_environment(worker.cpus_per_worker),
            sync=lambda handle, version: handle.call("load", version[-1]),
        )
    if config.teacher and config.has_teacher:
        expert = config.teacher
        teacher = make(
            "teacher",
            functools.partial(build_teacher_worker, config, expert),
            resources=WorkerResources(
                expert.cpus_per_worker, expert.gpus_per_worker, labels.get("teacher")
            ),
            environment=thread_environment(expert.cpus_per_worker),
        )
    rewards = {}
    for name, source in reward_names(config.rewards).items():
        fleet = make(
            name,
            functools.partial(build_reward_source, source, config.model.name),
            resources=WorkerResources(1.0, 0.0, labels.get("reward")),
            environment=thread_environment(1.0),
        )
        rewards[name] = RewardFleet(fleet, source.weight, source.on_error)
    fleets = RunFleets(rollout, Scorers(discriminator, teacher, rewards))
    sizes = job_sizes(config)
    for fleet in fleets.all():
        fleet.scale(sizes[fleet.kind])
    return fleets


class WeightSync:
    """Syncs published weights to rollout workers; its first note is an event of the run."""

    def __init__(
        self, on_damage: Callable[[Exception], Awaitable[None]], on_event: Callable[[str], None]
    ) -> None:
        """Take what publishes damaged weights again, and what tells the user of a note."""
        self._on_damage, self._on_event = on_damage, on_event
        self._has_told = False

    async def __call__(self, handle: Handle, published: Published) -> None:
        """Sync weights to a worker; damaged ones are published and synced once more.

        Raises:
            WeightMismatchError: if they are damaged again.
        """
        try:
            synced = await handle.call("sync_weights", published)
        except WeightMismatchError as damage:
            await self._on_damage(damage)
            synced = await handle.call("sync_weights", published)
        if synced.note and not self._has_told:
            self._has_told = True
            self._on_event(f"weights {published.version}: {synced.note}")


def _fleet(
    config: RunConfig,
    reports: Reports,
    kind: str,
    build: Callable[[], Any],
    *,
    resources: WorkerResources,
    environment: dict[str, str],
    sync: Callable[[Handle, Any], Any] | None = None,
    syncs_while_serving: bool = False,
) -> Fleet:
    def start(name: str) -> Handle:
        return start_worker(
            name,
            build,
            cpus=resources.cpus,
            gpus=resources.gpus,
            shares_cpus=config.placement.phases_share_cpus,
            environment=environment,
            labels=resources.labels,
        )

    return Fleet(
        kind,
        start,
        timeout_s=config.placement.timeout_s,
        sync=sync,
        syncs_while_serving=syncs_while_serving,
        reports=reports,
    )
