"""How much of the cluster each worker takes. A pure plan: Ray is not asked here."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from actors.errors import InvalidInputError
from cluster.config.run_config import RunConfig
from cluster.resources.memory import (
    GIB,
    PROCESS_GIB,
    _discriminator_gib,
    _fewest_ranks,
    _learner_gib,
    _rollout_gib,
    _teacher_gib,
)
from cluster.resources.model_files import ModelSize

SHARED_CPUS = 0.01
"""What a worker reserves where phases take turns with the same cores: Ray grants that to all."""


REWARD_CPUS = 1.0
"""Of each copy of a reward source; these have no setting."""


GPU_DIGITS = 4
"""To which Ray counts parts of a GPU; a sum of such parts in binary is off by less."""


RAY_GIB = 1.5
"""The driver, Ray's own processes and its object store as this package starts it."""


class Resources(NamedTuple):
    """What a cluster has in all."""

    cpus: float
    gpus: float
    memory_gib: float


class WorkerPlan(NamedTuple):
    """One kind of worker."""

    kind: str
    num_workers: int
    cpus: float
    """Cores that each computes with."""
    gpus: float
    """Of each."""
    memory_gib: float
    """Expected of each at its peak, in the host's memory."""
    count_setting: str
    """Which setting says how many."""
    cpus_setting: str | None
    """Which setting says how many cores, if one does."""


class Plan(NamedTuple):
    """All that a run starts."""

    workers: tuple[WorkerPlan, ...]
    shares_cpus: bool
    """Whether the kinds take turns with the same cores."""

    @property
    def memory_gib(self) -> float:
        """Expected memory of everything together."""
        return RAY_GIB + sum(each.num_workers * each.memory_gib for each in self.workers)


def reserved_cpus(cpus: float, *, shares_cpus: bool) -> float:
    """Return what a worker reserves of Ray's CPUs, as against the cores it computes with."""
    return min(cpus, SHARED_CPUS) if shares_cpus else cpus


def plan(
    config: RunConfig,
    policy: ModelSize,
    rewards: Sequence[ModelSize | None],
    cluster: Resources,
    teacher: ModelSize | None = None,
) -> Plan:
    """Say what a run will take, and refuse one that the cluster cannot hold.

    Memory is an estimate of each kind's peak in the host's memory:

        learner rank    process + 16 bytes a parameter + 4 for the reference policy, divided by the
                        ranks (the fewest that will do) + activations of a microbatch
        rollout worker  process + weights twice, as new ones arrive beside the old + kv cache
        discriminator   process + 16 bytes a trained parameter, 4 a frozen one + activations
        teacher         process + 4 bytes a parameter
        reward model    process + 4 bytes a parameter
        beside them     Ray and the driver

    What lies on a GPU is not counted.

    Args:
        rewards: of each reward source the size of its model, None for a function.
        teacher: its model's size, if there is one.

    Returns:
        The plan.

    Raises:
        InvalidInputError: naming what is missing and which settings ask for it.
    """
    shares_cpus = config.placement.phases_share_cpus
    made = Plan(tuple(_workers(config, policy, rewards, teacher)), shares_cpus)
    _refuse_too_many_cpus(made, cluster.cpus)
    _refuse_too_many_gpus(made, cluster.gpus)
    if made.memory_gib > cluster.memory_gib:
        parts = ", ".join(f"{w.num_workers} x {w.kind} {w.memory_gib:.1f}" for w in made.workers)
        raise InvalidInputError(
            f"the run is expected to take {made.memory_gib:.1f} GiB of memory ({parts}, Ray "
            f"{RAY_GIB}) and the cluster has {cluster.memory_gib:.1f} GiB; lower "
            "learner.max_tokens_per_microbatch, rollout.kv_cache_gib or discriminator.num_layers, "
            "or use a smaller model"
        )
    return made


def reserved_beside_learner(config: RunConfig) -> dict[str, float]:
    """Return what all workers but the learner's ranks reserve, by Ray's names: CPU and GPU."""
    no_model = ModelSize(0, 1, 0, 0)
    workers = list(_workers(config, no_model, [None] * len(config.rewards), None))[1:]
    shares = config.placement.phases_share_cpus
    return {
        "CPU": sum(w.num_workers * reserved_cpus(w.cpus, shares_cpus=shares) for w in workers),
        "GPU": sum(w.num_workers * w.gpus for w in workers),
    }


def _workers(
    config: RunConfig,
    policy: ModelSize,
    rewards: Sequence[ModelSize | None],
    teacher: ModelSize | None,
) -> Iterator[WorkerPlan]:
    """Yield the kinds of workers that this run starts, the learner first."""
    learner, rollout, discriminator = config.learner, config.rollout, config.discriminator
    tokens = learner.max_tokens_per_microbatch
    yield WorkerPlan(
        "learner",
        _fewest_ranks(learner),
        learner.cpus_per_rank,
        learner.gpus_per_rank,
        _learner_gib(learner, policy, has_reference=config.has_reference),
        "learner.min_ranks" if learner.min_ranks else "learner.num_ranks",
        "learner.cpus_per_rank",
    )
    yield WorkerPlan(
        "rollout",
        rollout.num_workers,
        rollout.cpus_per_worker,
        rollout.gpus_per_worker,
        _rollout_gib(rollout, policy),
        "rollout.num_workers",
        "rollout.cpus_per_worker",
    )
    if config.has_discriminator:
        yield WorkerPlan(
            "discriminator",
            discriminator.num_workers,
            discriminator.cpus_per_worker,
            discriminator.gpus_per_worker,
            _discriminator_gib(discriminator, policy, tokens),
            "discriminator.num_workers",
            "discriminator.cpus_per_worker",
        )
    if config.teacher and config.has_teacher:
        yield WorkerPlan(
            "teacher",
            config.teacher.num_workers,
            config.teacher.cpus_per_worker,
            config.teacher.gpus_per_worker,
            _teacher_gib(config.teacher, teacher),
            "teacher.num_workers",
            "teacher.cpus_per_worker",
        )
    for index, (source, size) in enumerate(zip(config.rewards, rewards, strict=True)):
        weights_gib = 0.0 if size is None else 4 * size.num_parameters / GIB
        setting = f"rewards.{index}.num_workers"
        memory_gib = PROCESS_GIB + weights_gib
        kind = f"reward {index}"
        yield WorkerPlan(kind, source.num_workers, REWARD_CPUS, 0.0, memory_gib, setting, None)


def _refuse_too_many_cpus(made: Plan, cpus: float) -> None:
    """Raise if a kind has more cores than there are, or all kinds together where none takes turns.

    Raises:
        InvalidInputError: naming the settings that ask for the most.
    """
    groups = [(each,) for each in made.workers] if made.shares_cpus else [made.workers]
    for group in groups:
        wanted = sum(each.num_workers * each.cpus for each in group)
        if wanted <= cpus:
            continue
        parts = ", ".join(f"{each.num_workers} x {each.kind} with {each.cpus:g}" for each in group)
        most = max(group, key=lambda each: each.num_workers * each.cpus)
        settings = " or ".join(s for s in (most.count_setting, most.cpus_setting) if s)
        hint = (
            ""
            if made.shares_cpus
            else ", or set placement.phases_share_cpus so that they take turns"
        )
        raise InvalidInputError(
            f"the run asks for {wanted:g} CPUs ({parts}) and the cluster has {cpus:g}; lower "
            f"{settings}{hint}"
        )


def _refuse_too_many_gpus(made: Plan, gpus: float) -> None:
    """Raise if the workers together ask for more GPUs than there are, or one for one and a half.

    Raises:
        InvalidInputError: naming the settings that ask for them.
    """
    for each in made.workers:
        if each.gpus > 1 and each.gpus % 1:
            raise InvalidInputError(
                f"{_gpus_setting(each)} = {each.gpus:g}, but a worker gets a part of one GPU or "
                "whole ones; set it to at most 1, or to a whole number"
            )
    wanted = round(sum(each.num_workers * each.gpus for each in made.workers), GPU_DIGITS)
    if wanted > gpus:
        users = [each for each in made.workers if each.gpus]
        parts = ", ".join(f"{each.num_workers} x {each.kind} with {each.gpus:g}" for each in users)
        raise InvalidInputError(
            f"the run asks for {wanted:g} GPUs ({parts}) and the cluster has {gpus:g}; "
            f"lower {', '.join(map(_gpus_setting, users))} (0 computes on the CPU)"
        )


def _gpus_setting(worker: WorkerPlan) -> str:
    return str(worker.cpus_setting).replace("cpus_", "gpus_")
