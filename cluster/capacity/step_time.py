"""The time of a step with a given number of workers of each kind.

The work of a step is in cluster/capacity/step_cost.py, the speed of a GPU in gpu_rates.py. Let
sampling, sync, scoring and learning be the seconds of the phases of one step, and S
max_staleness_steps. At most S + 1 steps are in progress at once, and a worker does one thing at a
time, so a step takes

    max((sampling + sync + scoring + learning + overhead) / (S + 1),
        busy seconds of the busiest kind of worker)

the largest cycle mean in the graph of dependencies (Baccelli, Cohen, Olsder and Quadrat
1992, Synchronization and Linearity, theorem 3.28). With S = 0 that is the sum of the phases, with a
large S the longest of them. A test holds it against the real driver with simulated workers of
constant service times; where these vary, a step also waits for the slowest worker.

Not included: checkpoints, evaluation, and the discriminator's warm-up.
"""

import math
from typing import Literal, NamedTuple

from cluster.capacity.gpu_rates import Rates
from cluster.capacity.step_cost import Work

GPUS_PER_NODE = 8
"""GPUs that have fast links and whose workers share fetched weights in the page cache."""
Sharing = Literal["nothing", "scorer with learner", "all"]
Bound = Literal["sampling", "scoring", "learning", "staleness"]


class Split(NamedTuple):
    """Numbers of workers, each of which takes one GPU or a part of one."""

    rollouts: int
    ranks: int
    scorers: int
    """Discriminator workers or teachers; 0 where the run has neither."""
    sharing: Sharing = "nothing"
    """Kinds that take turns on one GPU; only with one rank and at most one scorer."""

    @property
    def num_gpus(self) -> int:
        """GPUs in use."""
        if self.sharing == "all":
            return 1
        return self.rollouts + self.ranks + self.scorers - (self.sharing == "scorer with learner")


class Phases(NamedTuple):
    """Seconds of one step, each phase alone."""

    sampling_s: float
    """Time from the first request of a step to the last response."""
    sampling_busy_s: float
    """Mean over the workers: less than sampling_s where requests do not divide evenly."""
    iterations_s: float
    """Part of sampling_s that decoding takes with any number of responses."""
    sync_s: float
    """Each worker's fetch of new weights."""
    scoring_s: float
    """Update of the discriminator and scores, or the teacher's scores."""
    learning_s: float
    """The optimizer step and publishing."""
    gathering_s: float
    """Communication between ranks: overlaps with computation."""
    publish_s: float
    overhead_s: float
    """Overhead of the driver and Ray."""

    @property
    def chain_s(self) -> float:
        """All phases one after the other."""
        in_turn = (self.sampling_s, self.sync_s, self.scoring_s, self.learning_s, self.overhead_s)
        return sum(in_turn)


class Estimate(NamedTuple):
    """Expected times of a split."""

    split: Split
    phases: Phases
    step_s: float
    bound: Bound
    """Bottleneck of the step; without overlap, the phase that takes longest."""
    tokens_per_s: float
    """Response tokens per second."""
    idle: dict[Bound, float]
    """Phase to the share of a step in which its workers wait."""


def estimate(work: Work, rates: Rates, split: Split, max_staleness_steps: int) -> Estimate:
    """Estimate the time of a step.

    Args:
        split: with at least one rollout worker and one rank, and with a scorer if the work has
            scoring.
    """
    return overlapped(work, phases_of(work, rates, split), split, max_staleness_steps)


def overlapped(work: Work, phases: Phases, split: Split, max_staleness_steps: int) -> Estimate:
    """Estimate the time of a step from its phases, by the formula above."""
    busy: dict[Bound, float] = {"sampling": phases.sampling_busy_s + phases.sync_s}
    busy |= {"learning": phases.learning_s, "scoring": phases.scoring_s}
    longest: Bound = max(busy, key=lambda kind: busy[kind])
    together_s = {
        "nothing": busy[longest],
        "scorer with learner": max(busy["sampling"], busy["learning"] + busy["scoring"]),
        "all": phases.chain_s,
    }[split.sharing]
    in_turn_s = phases.chain_s / (max_staleness_steps + 1)
    step_s = max(in_turn_s, together_s)
    is_staleness_bound = max_staleness_steps > 0 and in_turn_s > together_s
    idle = {kind: max(1.0 - seconds / step_s, 0.0) for kind, seconds in busy.items()}
    return Estimate(
        split,
        phases,
        step_s,
        "staleness" if is_staleness_bound else longest,
        work.sampled_tokens / step_s,
        idle if split.scorers else {kind: idle[kind] for kind in idle if kind != "scoring"},
    )


def phases_of(work: Work, rates: Rates, split: Split) -> Phases:
    """Return the seconds of a step's phases, each alone.

    Ranks compute in lock-step, so a step waits for the one with the most prompts; communication
    overlaps:

        learning  max(trained tokens * ceil(prompts / ranks) / prompts / trained rate, gathering)
                  + published bytes / publish rate
    """
    sampling_s, busy_s, iterations_s = _sampling(work, rates, split.rollouts)
    learning_s = rank_tokens(work, split.ranks) / rates.trained_tokens_per_s
    gathering_s = _gathering_s(work, rates, split.ranks)
    publish_s = work.published_bytes / rates.publish_bytes_per_s
    return Phases(
        sampling_s=sampling_s,
        sampling_busy_s=busy_s,
        iterations_s=iterations_s,
        sync_s=_sync_s(work, rates, split.rollouts),
        scoring_s=_scoring_s(work, rates, split.scorers),
        learning_s=max(learning_s, gathering_s) + publish_s,
        gathering_s=gathering_s,
        publish_s=publish_s,
        overhead_s=rates.overhead_s,
    )


def request_prompts(work: Work, num_rollouts: int) -> int:
    """Return the number of prompts in a request to a rollout worker, as the sampler sizes it."""
    most = max(1, work.max_sequences // work.group_size)
    return max(1, min(most, math.ceil(work.num_sampled_prompts / num_rollouts)))


def iterations_s(work: Work, rates: Rates, num_prompts: int) -> float:
    """Return the seconds of a request's iterations: one per token of the longest response.

    Responses that do not fit into the cache wait for others:

        max(responses / cached responses, 1) * longest response * seconds of an iteration
    """
    rounds = max(num_prompts * work.group_size / work.max_cached_sequences, 1.0)
    return rounds * work.longest_response * rates.iteration_s


def rank_tokens(work: Work, num_ranks: int) -> float:
    """Return the training tokens of the fullest rank; a prompt is not divided between ranks."""
    return work.trained_tokens * math.ceil(work.num_prompts / num_ranks) / work.num_prompts


def _sampling(work: Work, rates: Rates, num_rollouts: int) -> tuple[float, float, float]:
    """Return sampling_s, sampling_busy_s and iterations_s of Phases.

    A step is R requests of equal size, but for the last. Each worker does one at a time, so

        request   iterations + prompts * (group * response / sampled rate + prompt / prefilled rate)
        sampling  ceil(R / workers) requests, the last one counted by its size if it is alone
        busy      all requests / workers
    """
    if not work.num_sampled_prompts:
        return 0.0, 0.0, 0.0
    size = request_prompts(work, num_rollouts)
    num_full, rest = divmod(work.num_sampled_prompts - 1, size)
    rest += 1  # prompts of the last request: at least one, at most size

    def request_s(num_prompts: int) -> float:
        prompt, response = work.lengths
        each_s = work.group_size * response / rates.sampled_tokens_per_s
        each_s += prompt / rates.prefilled_tokens_per_s
        return iterations_s(work, rates, num_prompts) + num_prompts * each_s

    rounds, alone = divmod(num_full, num_rollouts)
    sampling_s = rounds * request_s(size) + (request_s(size) if alone else request_s(rest))
    busy_s = (num_full * request_s(size) + request_s(rest)) / num_rollouts
    return sampling_s, busy_s, (rounds + 1) * iterations_s(work, rates, size)


def _gathering_s(work: Work, rates: Rates, num_ranks: int) -> float:
    """Return the seconds of communication between ranks, over the microbatches of the fullest rank.

    microbatches * gathered bytes * (1 - 1 / ranks) / link, or network with several nodes
    """
    num_microbatches = math.ceil(rank_tokens(work, num_ranks) / work.microbatch_tokens)
    is_one_node = num_ranks <= GPUS_PER_NODE
    link = rates.link_bytes_per_s if is_one_node else rates.network_bytes_per_s
    return num_microbatches * work.gathered_bytes * (1.0 - 1.0 / num_ranks) / link


def _sync_s(work: Work, rates: Rates, num_rollouts: int) -> float:
    """Return the seconds of a worker's fetch of weights; nodes share the bandwidth of the store.

    max(bytes / fetch rate, nodes * bytes / store rate), the latter with several nodes
    """
    num_nodes = math.ceil(num_rollouts / GPUS_PER_NODE)
    alone_s = work.published_bytes / rates.fetch_bytes_per_s
    if num_nodes == 1:
        return alone_s
    return max(alone_s, num_nodes * work.published_bytes / rates.store_bytes_per_s)


def _scoring_s(work: Work, rates: Rates, num_scorers: int) -> float:
    """Return the seconds of the discriminator's update and of scoring.

    One worker trains and sends its weights and moments to the others; all score:

        update tokens / rate + shared bytes (1 / publish rate + 1 / fetch rate)
        + trained tokens * ceil(prompts / scorers) / prompts / rate
    """
    if not work.is_scored:
        return 0.0
    sharing_s = 0.0
    if num_scorers > 1:
        seconds_per_byte = 1.0 / rates.publish_bytes_per_s + 1.0 / rates.fetch_bytes_per_s
        sharing_s = work.saved_scorer_bytes * seconds_per_byte
    passes_tokens = work.update_passes_tokens + rank_tokens(work, num_scorers)
    return passes_tokens / rates.scored_tokens_per_s + sharing_s
