"""The splits of GPUs between the workers, ranked by the time of a step, as far as memory allows."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from actors.errors import InvalidInputError
from cluster.capacity.gpu_rates import Rates
from cluster.capacity.step_cost import Work
from cluster.capacity.step_time import Estimate, Split, estimate, phases_of
from cluster.resources.memory import Memory

USABLE_MEMORY = 0.9
"""Share of a GPU's memory; the rest is lost to fragmentation."""
SAME_SHARE = 0.01
"""Steps whose times differ by less count as equally fast: the estimate is not more accurate."""


class GpuPool(NamedTuple):
    """The GPUs to split, and the memory that workers need on them."""

    num_gpus: int
    gpu_gib: float = math.inf
    """Memory of each, of which USABLE_MEMORY is used."""
    memory: Callable[[Split], Sequence[Memory]] = lambda _split: ()
    """Memory of one worker of each kind in a split."""

    def excess_gib(self, split: Split) -> float:
        """Return by how many GiB the fullest GPU is too small; at most 0 if all workers fit."""
        gib = {each.kind: each.gib for each in self.memory(split)}
        rollout = gib.pop("rollout", 0.0)
        if split.sharing == "nothing":
            fullest = max([rollout, *gib.values()])
        else:
            others = sum(gib.values())
            fullest = rollout + others if split.sharing == "all" else max(rollout, others)
        return fullest - USABLE_MEMORY * self.gpu_gib


def best_splits(
    work: Work, rates: Rates, max_staleness_steps: int, pool: GpuPool
) -> list[Estimate]:
    """Rank the splits of at most pool.num_gpus GPUs; return at least one estimate.

    First come those as fast as the fastest, up to SAME_SHARE, by the number of GPUs that they use;
    then the others, by their time. The first is therefore never slower with more GPUs. A number of
    workers whose phase is no faster than with fewer is skipped, which loses no faster step.

    Raises:
        InvalidInputError: if no split fits, with the one that needs the least memory.
    """
    fitting = [s for s in _splits(work, rates, pool) if pool.excess_gib(s) <= 0.0]
    if not fitting:
        raise InvalidInputError(_why_nothing_fits(work, pool))
    estimates = [estimate(work, rates, split, max_staleness_steps) for split in fitting]
    fast_s = (1.0 + SAME_SHARE) * min(each.step_s for each in estimates)
    return sorted(
        estimates, key=lambda e: (max(e.step_s, fast_s), e.split.num_gpus, e.step_s, e.split)
    )


def _splits(work: Work, rates: Rates, pool: GpuPool) -> Iterator[Split]:
    """Yield the splits to estimate; where no GPU is shared, the ranks fit."""
    counts, scorer = range(1, pool.num_gpus + 1), int(work.is_scored)

    def phases(split: Split) -> tuple[float, ...]:
        each = phases_of(work, rates, split)
        return (
            each.sampling_s + each.sync_s,
            each.sampling_busy_s + each.sync_s,
            each.scoring_s,
            each.learning_s,
        )

    rollouts = _worthwhile(counts, lambda n: phases(Split(n, 1, scorer)))
    scorers = _worthwhile(counts, lambda n: phases(Split(1, 1, n))) if scorer else [0]
    fitting = [n for n in counts if pool.excess_gib(Split(1, n, scorer)) <= 0.0]
    ranks = _worthwhile(fitting, lambda n: phases(Split(1, n, scorer)))
    for numbers in itertools.product(rollouts, ranks, scorers):
        if sum(numbers) <= pool.num_gpus:
            yield Split(*numbers)
    yield Split(1, 1, scorer, "all")
    if scorer:
        yield from (Split(n, 1, 1, "scorer with learner") for n in rollouts if n < pool.num_gpus)


def _worthwhile(counts: Iterable[int], seconds: Callable[[int], tuple[float, ...]]) -> list[int]:
    """Return the counts with which some phase is faster than with every smaller count."""
    kept: list[int] = []
    seen: list[tuple[float, ...]] = []
    for count in counts:
        new = seconds(count)
        if not any(all(map(float.__le__, old, new)) for old in seen):
            kept.append(count)
            seen.append(new)
    return kept


def _why_nothing_fits(work: Work, pool: GpuPool) -> str:
    scorer, num_gpus = int(work.is_scored), pool.num_gpus
    possible = [Split(1, 1, scorer, "all")]
    if num_gpus > scorer + 1:
        possible.append(Split(1, num_gpus - scorer - 1, scorer))
    if scorer and num_gpus > 1:
        possible.append(Split(num_gpus - 1, 1, 1, "scorer with learner"))
    nearest = min(possible, key=pool.excess_gib)
    parts = ", ".join(f"{each.kind} {each.gib:.0f}" for each in pool.memory(nearest))
    places = {"nothing": "a GPU each", "all": "all on one GPU"}
    where = places.get(nearest.sharing, "the last two on one GPU")
    return (
        f"no split of {num_gpus} GPUs fits: at best the workers need, in GiB, {parts} ({where}), "
        f"and {USABLE_MEMORY:.0%} of {pool.gpu_gib:.0f} can be used; lower "
        "learner.max_tokens_per_microbatch, rollout.kv_cache_gib or discriminator.num_layers, set "
        "discriminator.tuning=lora, or give more or larger GPUs"
    )
