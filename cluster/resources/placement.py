"""The resources that each worker of a run takes, and whether a cluster has them, without Ray."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from actors.errors import InvalidInputError
from cluster.config.run_config import RunConfig
from cluster.resources.memory import GIB, PROCESS_GIB, run_memory, scorer_shape
from cluster.resources.model_shape import ModelShape

SHARED_CPUS = 0.01
"""CPUs that a worker reserves where phases take turns with the same cores, so that all start."""
REWARD_CPUS = 1.0
"""CPUs of each worker of a reward source; there is no setting for it."""
GPU_DIGITS = 4
"""Decimal places to which Ray counts fractions of a GPU."""
RAY_GIB = 1.5
"""Host memory of the driver, Ray's own processes and an object store of OBJECT_STORE_BYTES."""


class Resources(NamedTuple):
    """Total resources of a cluster."""

    cpus: float
    gpus: float
    memory_gib: float
    is_measured_now: bool = True
    """Whether the memory is what is free now; Ray takes it once, when a node starts."""

    @property
    def memory_remedy(self) -> str:
        """What gives a run more memory, as a clause that ends a list."""
        if self.is_measured_now:
            return ", or free memory on this machine"
        return (
            "; Ray fixed this figure when its nodes started, so if they have more by now, restart "
            "them with `ray start --memory=BYTES`"
        )


class WorkerPlan(NamedTuple):
    """The workers of one kind."""

    kind: str
    num_workers: int
    cpus: float
    """Cores that each computes with."""
    gpus: float
    """GPUs that each reserves."""
    count_setting: str
    """Setting of the number of workers."""
    cpus_setting: str | None
    """Setting of the number of cores; None if there is none."""
    memory_gib: float = 0.0
    """Expected peak of each in host memory."""


class Plan(NamedTuple):
    """All workers of a run."""

    workers: tuple[WorkerPlan, ...]
    shares_cpus: bool
    """Whether the kinds take turns with the same cores."""

    @property
    def memory_gib(self) -> float:
        """Expected host memory of all workers, the driver and Ray."""
        return RAY_GIB + sum(each.num_workers * each.memory_gib for each in self.workers)


def reserved_cpus(cpus: float, *, shares_cpus: bool) -> float:
    """Return the CPUs that a worker reserves of Ray's, given the cores it computes with."""
    return min(cpus, SHARED_CPUS) if shares_cpus else cpus


def plan_workers(
    config: RunConfig,
    policy: ModelShape,
    reward_parameters: Sequence[int | None],
    cluster: Resources,
    teacher: ModelShape | None = None,
) -> Plan:
    """Return the workers of a run with the resources that they take, if the cluster has these.

    The memory of a worker is that of cluster/resources/memory.py on a CPU, for a learner rank where
    the run has its fewest ranks. A reward model takes 4 bytes per parameter. A worker on a GPU
    takes the host memory of its process alone.

    Args:
        reward_parameters: number of parameters of each reward source's model, None for a function.

    Raises:
        InvalidInputError: naming what is missing and which settings ask for it.
    """
    memory = _memory_gib(config, policy, reward_parameters, teacher)
    workers = (
        each._replace(memory_gib=PROCESS_GIB if each.gpus else memory[each.kind])
        for each in _workers(config)
    )
    made = Plan(tuple(workers), config.placement.phases_share_cpus)
    _refuse_too_many_cpus(made, cluster.cpus)
    _refuse_too_many_gpus(made, cluster.gpus)
    if made.memory_gib > cluster.memory_gib:
        parts = ", ".join(f"{w.num_workers} x {w.kind} {w.memory_gib:.1f}" for w in made.workers)
        raise InvalidInputError(
            f"the run is expected to take {made.memory_gib:.1f} GiB of memory ({parts}, Ray "
            f"{RAY_GIB}) and the cluster has {cluster.memory_gib:.1f} GiB; lower "
            "learner.max_tokens_per_microbatch, rollout.kv_cache_gib or discriminator.num_layers, "
            f"or use a smaller model{cluster.memory_remedy}"
        )
    return made


def reserved_by_other_workers(config: RunConfig) -> dict[str, float]:
    """Return what all workers except the learner's ranks reserve: amounts of CPU and GPU."""
    workers = [each for each in _workers(config) if each.kind != "learner"]
    shares = config.placement.phases_share_cpus
    return {
        "CPU": sum(w.num_workers * reserved_cpus(w.cpus, shares_cpus=shares) for w in workers),
        "GPU": sum(w.num_workers * w.gpus for w in workers),
    }


def _memory_gib(
    config: RunConfig,
    policy: ModelShape,
    reward_parameters: Sequence[int | None],
    teacher: ModelShape | None,
) -> dict[str, float]:
    """Return the host memory of a worker on a CPU, by kind."""
    num_ranks = config.learner.min_ranks or config.learner.num_ranks
    scorer = scorer_shape(config, policy, teacher)
    needed = {m.kind: m.gib for m in run_memory(config, policy, scorer, num_ranks, "cpu")}
    for index, number in enumerate(reward_parameters):
        needed[f"reward {index}"] = PROCESS_GIB + 4 * (number or 0) / GIB
    return needed


def _workers(config: RunConfig) -> Iterator[WorkerPlan]:
    """Yield the kinds of workers that this run starts."""
    learner, rollout, discriminator = config.learner, config.rollout, config.discriminator
    yield WorkerPlan(
        "learner",
        learner.min_ranks or learner.num_ranks,
        learner.cpus_per_rank,
        learner.gpus_per_rank,
        "learner.min_ranks" if learner.min_ranks else "learner.num_ranks",
        "learner.cpus_per_rank",
    )
    yield WorkerPlan(
        "rollout",
        rollout.num_workers,
        rollout.cpus_per_worker,
        rollout.gpus_per_worker,
        "rollout.num_workers",
        "rollout.cpus_per_worker",
    )
    if config.has_discriminator:
        yield WorkerPlan(
            "discriminator",
            discriminator.num_workers,
            discriminator.cpus_per_worker,
            discriminator.gpus_per_worker,
            "discriminator.num_workers",
            "discriminator.cpus_per_worker",
        )
    if config.teacher and config.has_teacher:
        yield WorkerPlan(
            "teacher",
            config.teacher.num_workers,
            config.teacher.cpus_per_worker,
            config.teacher.gpus_per_worker,
            "teacher.num_workers",
            "teacher.cpus_per_worker",
        )
    for index, source in enumerate(config.rewards):
        setting = f"rewards.{index}.num_workers"
        yield WorkerPlan(f"reward {index}", source.num_workers, REWARD_CPUS, 0.0, setting, None)


def _refuse_too_many_cpus(made: Plan, cpus: float) -> None:
    """Refuse more cores than the cluster has: of each kind if kinds take turns, else of all."""
    groups = [(each,) for each in made.workers] if made.shares_cpus else [made.workers]
    for group in groups:
        needed = sum(each.num_workers * each.cpus for each in group)
        if needed <= cpus:
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
            f"the run needs {needed:g} CPUs ({parts}) and the cluster has {cpus:g}; lower "
            f"{settings}{hint}"
        )


def _refuse_too_many_gpus(made: Plan, gpus: float) -> None:
    """Refuse more GPUs than the cluster has, and a number above 1 that is not whole."""
    for each in made.workers:
        if each.gpus > 1 and each.gpus % 1:
            raise InvalidInputError(
                f"{_gpus_setting(each)} = {each.gpus:g}, but a worker gets a fraction of one GPU "
                "or whole GPUs; set it to at most 1, or to a whole number"
            )
    needed = round(sum(each.num_workers * each.gpus for each in made.workers), GPU_DIGITS)
    if needed > gpus:
        users = [each for each in made.workers if each.gpus]
        parts = ", ".join(f"{each.num_workers} x {each.kind} with {each.gpus:g}" for each in users)
        raise InvalidInputError(
            f"the run needs {needed:g} GPUs ({parts}) and the cluster has {gpus:g}; "
            f"lower {', '.join(map(_gpus_setting, users))} (0 computes on the CPU)"
        )


def _gpus_setting(worker: WorkerPlan) -> str:
    return str(worker.cpus_setting).replace("cpus_", "gpus_")
