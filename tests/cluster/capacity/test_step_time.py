"""Estimates of a step against hand-worked values, limits, brute force and simulated runs."""

import asyncio
import itertools
import math
from argparse import Namespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.errors import InvalidInputError
from cluster.capacity.gpu_allocation import SAME_SHARE, USABLE_MEMORY, GpuPool, best_splits
from cluster.capacity.gpu_rates import Rates
from cluster.capacity.step_cost import Lengths, Work
from cluster.capacity.step_time import Split, estimate, phases_of
from cluster.resources.memory import Memory
from tests.benchmarks import bench_overlap

WORK = Work(
    num_prompts=8,
    num_sampled_prompts=8,
    group_size=2,
    lengths=Lengths(100.0, 50.0),
    longest_response=80,
    max_sequences=64,
    max_cached_sequences=64.0,
    microbatch_tokens=500,
    gathered_bytes=1000.0,
    published_bytes=200.0,
    is_scored=True,
    update_passes_tokens=3000.0,
    saved_scorer_bytes=60.0,
)
RATES = Rates(
    source="a table",
    iteration_s=0.01,
    sampled_tokens_per_s=1000.0,
    prefilled_tokens_per_s=10_000.0,
    trained_tokens_per_s=800.0,
    scored_tokens_per_s=2300.0,
    link_bytes_per_s=1000.0,
    network_bytes_per_s=100.0,
    publish_bytes_per_s=400.0,
    fetch_bytes_per_s=1000.0,
    store_bytes_per_s=500.0,
    overhead_s=0.1,
)


def seconds(work=WORK, rates=RATES, rollouts=1, ranks=1, scorers=1):
    return phases_of(work, rates, Split(rollouts, ranks, scorers))


def test_sampling_is_iterations_and_tokens_of_the_requests_that_one_worker_does_in_turn():
    # A prompt: 2 x 50 tokens at 1000/s and 100 of its own at 10,000/s are 0.11 s. 80 iterations of
    # 0.01 s are 0.8 s. One worker has one request of all 8 prompts.
    assert seconds().sampling_s == pytest.approx(0.8 + 8 * 0.11)
    assert seconds().iterations_s == pytest.approx(0.8)
    # Three workers: requests of 3, 3 and 2 prompts at once; their mean is shorter than the longest.
    assert seconds(rollouts=3).sampling_s == pytest.approx(0.8 + 3 * 0.11)
    assert seconds(rollouts=3).sampling_busy_s == pytest.approx(0.8 + 8 / 3 * 0.11)
    # Engines of 6 responses take 3 prompts at once: two workers do 3 + 2 and 3, the last alone.
    small = WORK._replace(max_sequences=6)
    assert seconds(small, rollouts=2).sampling_s == pytest.approx(2 * 0.8 + 5 * 0.11)
    assert seconds(small, rollouts=2).sampling_busy_s == pytest.approx((3 * 0.8 + 8 * 0.11) / 2)
    # Engines of 4: 2, 2, 2 and 2 on three workers, so one of them does two.
    smaller = WORK._replace(max_sequences=4)
    assert seconds(smaller, rollouts=3).sampling_s == pytest.approx(2 * (0.8 + 2 * 0.11))


def test_responses_without_room_in_the_cache_follow_one_another():
    half = WORK._replace(max_cached_sequences=8.0)  # of 16
    assert seconds(half).sampling_s == pytest.approx(2 * 0.8 + 8 * 0.11)
    # Two workers need no more room than there is.
    assert seconds(half, rollouts=2).sampling_s == pytest.approx(0.8 + 4 * 0.11)


def test_demonstrations_take_no_sampling_and_are_learnt_once_a_prompt():
    half = WORK._replace(num_sampled_prompts=4)
    assert seconds(half).sampling_s == pytest.approx(0.8 + 4 * 0.11)
    assert half.trained_tokens == 4 * (100 + 2 * 50) + 4 * (100 + 50)
    assert seconds(WORK._replace(num_sampled_prompts=0)).sampling_s == 0.0


def test_learning_waits_for_the_fullest_rank_or_for_what_ranks_send():
    # 8 x 200 tokens at 800/s, and 200 bytes published at 400/s; one rank sends nothing.
    assert seconds().learning_s == pytest.approx(2.0 + 0.5)
    assert seconds().gathering_s == 0.0
    # Three ranks: one has 3 of 8 prompts, 600 tokens, in 2 microbatches of 1000 bytes x 2/3.
    assert seconds(ranks=3).gathering_s == pytest.approx(2 * 2 / 3)
    assert seconds(ranks=3).learning_s == pytest.approx(2 * 2 / 3 + 0.5)
    fast = RATES._replace(link_bytes_per_s=1e9)
    assert seconds(rates=fast, ranks=3).learning_s == pytest.approx(600 / 800 + 0.5)
    # Nine ranks need a second node, whose network is ten times as slow as the link.
    assert seconds(ranks=9).gathering_s == pytest.approx(8 / 9 * 1000 / 100)


def test_one_worker_trains_the_discriminator_and_all_score():
    # (3000 + 8 x 200) / 2300; the second takes over 60 bytes, at 400/s and 1000/s.
    assert seconds().scoring_s == pytest.approx(2.0)
    assert seconds(scorers=2).scoring_s == pytest.approx(3800 / 2300 + 60 / 400 + 60 / 1000)
    assert seconds(WORK._replace(is_scored=False), scorers=0).scoring_s == 0.0


def test_fetching_is_bound_by_the_worker_and_with_many_nodes_by_the_store():
    assert seconds(rollouts=8).sync_s == pytest.approx(0.2)
    assert seconds(rollouts=9).sync_s == pytest.approx(2 * 200 / 500)


def test_a_step_is_the_sum_without_staleness_and_in_the_end_the_longest_phase():
    split = Split(1, 1, 1)
    chain = (0.8 + 0.88) + 0.2 + 2.0 + 2.5 + 0.1
    found = [estimate(WORK, RATES, split, staleness) for staleness in (0, 1, 2, 9)]
    assert [each.step_s for each in found] == pytest.approx([chain, chain / 2, 2.5, 2.5])
    assert [each.bound for each in found] == ["learning", "staleness", "learning", "learning"]
    assert found[2].idle == pytest.approx(
        {"sampling": 1 - 1.88 / 2.5, "learning": 0, "scoring": 0.2}
    )
    assert found[2].tokens_per_s == pytest.approx(8 * 2 * 50 / 2.5)


def test_what_shares_a_gpu_takes_turns_however_stale():
    both = estimate(WORK, RATES, Split(1, 1, 1, "scorer with learner"), 9)
    assert both.step_s == pytest.approx(2.5 + 2.0)
    assert both.split.num_gpus == 2
    (best,) = best_splits(WORK, RATES, 9, GpuPool(1))
    assert best.split == Split(1, 1, 1, "all")
    assert best.step_s == pytest.approx(estimate(WORK, RATES, Split(1, 1, 1), 0).step_s)


def test_with_infinitely_fast_sampling_and_scoring_learning_is_the_limit_and_gets_the_gpus():
    inf = math.inf
    rates = RATES._replace(
        iteration_s=0.0,
        sampled_tokens_per_s=inf,
        prefilled_tokens_per_s=inf,
        scored_tokens_per_s=inf,
        link_bytes_per_s=inf,
        publish_bytes_per_s=inf,
        fetch_bytes_per_s=inf,
        overhead_s=0.0,
    )
    for staleness in (0, 1, 2):
        best = best_splits(WORK, rates, staleness, GpuPool(6))[0]
        assert best.split == Split(1, 4, 1)  # 8 prompts: a fifth rank would change nothing
        assert best.bound == "learning"
        assert best.step_s == pytest.approx(400 / 800)


def test_a_split_that_does_not_fit_is_passed_over_and_an_error_names_what_comes_nearest():
    def memory(split):
        rank = Memory("learner", {"state": 100.0 / split.ranks})
        return Memory("rollout", {"weights": 20.0}), rank, Memory("discriminator", {"state": 10.0})

    linked = RATES._replace(link_bytes_per_s=math.inf)  # so that a third rank helps
    fits_two = GpuPool(5, 50.0 / USABLE_MEMORY, memory)
    assert {each.split.ranks for each in best_splits(WORK, linked, 1, fits_two)} == {2, 3}
    fits_all = GpuPool(5, 130.0 / USABLE_MEMORY, memory)
    assert Split(1, 1, 1, "all") in [each.split for each in best_splits(WORK, RATES, 1, fits_all)]
    beside = GpuPool(2, 110.0 / USABLE_MEMORY, memory)  # 100 and 10 together, but not 20 as well
    assert [each.split for each in best_splits(WORK, RATES, 1, beside)] == [
        Split(1, 1, 1, "scorer with learner")
    ]
    with pytest.raises(InvalidInputError, match=r"discriminator 10 \(the last two on one"):
        best_splits(WORK, RATES, 1, beside._replace(gpu_gib=105.0 / USABLE_MEMORY))
    with pytest.raises(
        InvalidInputError, match="rollout 20, learner 33, discriminator 10"
    ) as error:
        best_splits(WORK, RATES, 1, GpuPool(5, 30.0, memory))
    assert "no split of 5 GPUs fits" in str(error.value)
    assert "lower learner.max_tokens_per_microbatch" in str(error.value)


def every_split(num_gpus, scorers):
    numbers = range(1, num_gpus + 1)
    for rollouts in numbers:
        for ranks in numbers:
            for number in numbers if scorers else [0]:
                if rollouts + ranks + number <= num_gpus:
                    yield Split(rollouts, ranks, number)
        if scorers and rollouts < num_gpus:
            yield Split(rollouts, 1, 1, "scorer with learner")
    yield Split(1, 1, scorers, "all")


rate = st.floats(1.0, 1e4)
drawn_rates = st.builds(
    Rates,
    source=st.just("drawn"),
    iteration_s=st.floats(0.0, 0.1),
    sampled_tokens_per_s=rate,
    prefilled_tokens_per_s=rate,
    trained_tokens_per_s=rate,
    scored_tokens_per_s=rate,
    link_bytes_per_s=rate,
    network_bytes_per_s=rate,
    publish_bytes_per_s=rate,
    fetch_bytes_per_s=rate,
    store_bytes_per_s=rate,
    overhead_s=st.floats(0.0, 1.0),
)
drawn_work = st.builds(
    WORK._replace,
    num_prompts=st.just(8),
    num_sampled_prompts=st.integers(0, 8),
    max_sequences=st.integers(1, 64),
    max_cached_sequences=st.floats(1.0, 64.0),
    is_scored=st.booleans(),
)


@settings(max_examples=25, deadline=None)
@given(work=drawn_work, rates=drawn_rates, staleness=st.integers(0, 3), gpus=st.integers(3, 12))
def test_the_best_split_is_that_of_every_split_tried(work, rates, staleness, gpus):
    tried = [estimate(work, rates, s, staleness) for s in every_split(gpus, int(work.is_scored))]
    fast_s = (1 + SAME_SHARE) * min(each.step_s for each in tried)
    best = min(
        (each for each in tried if each.step_s <= fast_s),
        key=lambda each: (each.split.num_gpus, each.step_s),
    )
    found = best_splits(work, rates, staleness, GpuPool(gpus))[0]
    assert found.split.num_gpus == best.split.num_gpus
    assert found.step_s == pytest.approx(best.step_s)


@settings(max_examples=15, deadline=None)
@given(work=drawn_work, rates=drawn_rates, staleness=st.integers(0, 3))
def test_more_gpus_never_make_the_best_split_slower(work, rates, staleness):
    times = [best_splits(work, rates, staleness, GpuPool(gpus))[0].step_s for gpus in range(1, 14)]
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in itertools.pairwise(times))


def simulated_step_s(tmp_path, phases, rollouts, staleness, *, jitter=0.0, steps=18):
    """Run the real driver, fleets and task queue on a virtual clock; workers pause so long."""
    tmp_path.mkdir(exist_ok=True)
    options = Namespace(
        workers=rollouts, jitter=jitter, seed=0, scoring=phases.scoring_s, steps=steps
    )
    with asyncio.Runner(loop_factory=bench_overlap.VirtualTimeLoop) as runner:
        measured = bench_overlap.measure(
            options, phases.sampling_busy_s, phases.learning_s, staleness, tmp_path
        )
        return runner.run(measured)[0]


def simulable(work, rates):
    """Leave out what simulated workers do not do: iterations, prompts, fetches, driver."""
    rates = rates._replace(iteration_s=0.0, prefilled_tokens_per_s=math.inf)
    return work._replace(published_bytes=0.0), rates._replace(overhead_s=0.0)


@pytest.mark.parametrize("staleness", [0, 1, 2])
@pytest.mark.parametrize("rollouts", [1, 3])
def test_a_simulated_run_takes_as_long_as_was_estimated(tmp_path, rollouts, staleness):
    work, rates = simulable(WORK, RATES._replace(scored_tokens_per_s=10_000.0))
    found = estimate(work, rates, Split(rollouts, 2, 1), staleness)
    step_s = simulated_step_s(tmp_path, found.phases, rollouts, staleness)
    assert step_s == pytest.approx(found.step_s, rel=0.02)


@pytest.mark.parametrize(("staleness", "bound"), [(0, 0.1), (1, 0.15), (2, 0.1)])
def test_service_times_that_vary_by_a_third_cost_a_tenth_or_so(tmp_path, staleness, bound):
    # Sampling and learning in balance, 1 s each, with 0.2 s of scoring: where it costs the most.
    work, rates = simulable(WORK, RATES._replace(scored_tokens_per_s=23_000.0))
    rates = rates._replace(sampled_tokens_per_s=200.0)
    found = estimate(work, rates, Split(4, 2, 1), staleness)
    step_s = simulated_step_s(tmp_path, found.phases, 4, staleness, jitter=0.3, steps=30)
    assert found.step_s < step_s < (1 + bound) * found.step_s


def test_the_split_that_is_estimated_best_is_the_fastest_of_those_simulated(tmp_path):
    work, rates = simulable(WORK._replace(is_scored=False), RATES)
    rates = rates._replace(link_bytes_per_s=math.inf)
    simulated = {}
    for rollouts in range(1, 6):
        found = estimate(work, rates, Split(rollouts, 6 - rollouts, 0), 2)
        folder = tmp_path / str(rollouts)
        simulated[found.split] = simulated_step_s(folder, found.phases, rollouts, 2, steps=14)
    best = best_splits(work, rates, 2, GpuPool(6))[0]
    assert best.split == min(simulated, key=simulated.get)
