import pytest

from actors.errors import InvalidInputError
from cluster.config.run_config import RunConfig
from cluster.resources.memory import (
    GIB,
    PROCESS_GIB,
    discriminator_memory,
    learner_memory,
    rollout_memory,
    teacher_memory,
)
from cluster.resources.model_shape import ModelShape
from cluster.resources.placement import RAY_GIB, Resources, plan_workers, reserved_cpus

# 1 of 5 parameters (in units of GIB) are embeddings, 1 is in each of 4 layers.
SHAPE = ModelShape(5 * GIB, 4, 2**15, 2**15, 2**13, 2**17, num_tables=1)
PLENTY = Resources(cpus=64, gpus=8, memory_gib=10_000)


def job(**sections):
    required = {"name": "a", "model": {"name": "m"}, "data": {"path": "d"}}
    return RunConfig.model_validate({**required, **sections})


def test_every_kind_of_worker_is_planned_as_the_job_says():
    config = job(
        learner={"num_ranks": 2, "cpus_per_rank": 3},
        rollout={"num_workers": 4, "gpus_per_worker": 0.5},
        rewards=[{"function": "m:f", "num_workers": 5}],
    )
    made = plan_workers(config, SHAPE, [None], PLENTY)
    assert [(w.kind, w.num_workers, w.cpus, w.gpus) for w in made.workers] == [
        ("learner", 2, 3, 0),
        ("rollout", 4, 1, 0.5),
        ("discriminator", 1, 1, 0),
        ("reward 0", 5, 1, 0),
    ]


def test_a_teacher_is_planned_by_its_own_settings():
    teacher = {"model": "t", "num_workers": 3, "cpus_per_worker": 2, "gpus_per_worker": 1}
    config = job(teacher=teacher, discriminator={"num_workers": 5, "cpus_per_worker": 7})
    shape = SHAPE._replace(num_parameters=GIB)
    worker = plan_workers(config, SHAPE, [], PLENTY, shape).workers[-1]
    assert (worker.kind, worker.num_workers, worker.cpus, worker.gpus) == ("teacher", 3, 2, 1)
    assert worker.memory_gib == PROCESS_GIB
    config = job(teacher=teacher | {"gpus_per_worker": 0})
    on_cpu = plan_workers(config, SHAPE, [], PLENTY, shape).workers[-1]
    assert on_cpu.memory_gib == teacher_memory(shape, "cpu").gib
    config = job(teacher=teacher)
    with pytest.raises(InvalidInputError, match=r"lower teacher\.gpus_per_worker \(0 computes"):
        plan_workers(config, SHAPE, [], PLENTY._replace(gpus=2), SHAPE)


@pytest.mark.parametrize("objective", [{"divergence_weight": 0}, {"steps": 0}])
def test_no_discriminator_is_planned_where_none_is_started(objective):
    made = plan_workers(
        job(objective=objective, rewards=[{"function": "m:f"}]), SHAPE, [None], PLENTY
    )
    assert [worker.kind for worker in made.workers] == ["learner", "rollout", "reward 0"]


def test_memory_is_that_of_the_memory_model_on_a_cpu():
    config = job(
        learner={"num_ranks": 2, "max_tokens_per_microbatch": 8192},
        discriminator={"num_layers": 1},
        rewards=[{"model": "m"}, {"function": "m:f"}],
    )
    made = plan_workers(config, SHAPE, [GIB, None], PLENTY)
    one_layer = SHAPE.first_layers(1)
    expected = [
        learner_memory(config.learner, SHAPE, 2, "cpu", num_copies=1).gib,
        rollout_memory(config.rollout, SHAPE, "cpu").gib,
        discriminator_memory(config.discriminator, config.learner, one_layer, "cpu").gib,
        PROCESS_GIB + 4,
        PROCESS_GIB,
    ]
    assert [worker.memory_gib for worker in made.workers] == expected
    assert made.memory_gib == pytest.approx(RAY_GIB + expected[0] + sum(expected))


def test_where_ranks_may_vary_the_cluster_must_hold_the_fewest():
    config = job(learner={"num_ranks": 100, "min_ranks": 2})
    ranks = plan_workers(config, SHAPE, [], PLENTY).workers[0]
    assert ranks == plan_workers(job(learner={"num_ranks": 2}), SHAPE, [], PLENTY).workers[
        0
    ]._replace(count_setting="learner.min_ranks")


def test_rollout_and_learner_may_share_one_gpu():
    config = job(rollout={"gpus_per_worker": 0.5}, learner={"gpus_per_rank": 0.5})
    made = plan_workers(config, SHAPE, [], Resources(8, 1, 10_000))
    assert [worker.gpus for worker in made.workers] == [0.5, 0.5, 0]
    # 3 * 0.8 + 0.6 is a little more than 3 in floating point.
    parts = job(rollout={"gpus_per_worker": 0.6}, learner={"num_ranks": 3, "gpus_per_rank": 0.8})
    plan_workers(parts, SHAPE, [], Resources(8, 3, 10_000))


def test_what_lies_on_a_gpu_is_not_host_memory():
    on_gpus = {"gpus_per_worker": 1}
    config = job(learner={"gpus_per_rank": 1}, rollout=on_gpus, discriminator=on_gpus)
    made = plan_workers(config, SHAPE, [], PLENTY)
    assert {worker.memory_gib for worker in made.workers} == {PROCESS_GIB}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"learner": {"num_ranks": 3}},
            r"needs 5 CPUs \(3 x learner with 1, 1 x rollout with 1, 1 x discriminator with 1\) "
            r"and the cluster has 4; lower learner\.num_ranks or learner\.cpus_per_rank, or set "
            r"placement\.phases_share_cpus",
        ),
        (
            {"rollout": {"num_workers": 5}, "placement": {"phases_share_cpus": True}},
            r"needs 5 CPUs \(5 x rollout with 1\) and the cluster has 4; lower "
            r"rollout\.num_workers or rollout\.cpus_per_worker$",
        ),
        (
            {"learner": {"num_ranks": 2, "gpus_per_rank": 1}},
            r"needs 2 GPUs \(2 x learner with 1\) and the cluster has 1; lower "
            r"learner\.gpus_per_rank \(0 computes on the CPU\)",
        ),
        (
            {"learner": {"num_ranks": 9, "min_ranks": 3}},
            r"needs 5 CPUs \(3 x learner .* lower learner\.min_ranks or learner\.cpus_per_rank",
        ),
        (
            {"rollout": {"gpus_per_worker": 1.5}},
            r"^rollout\.gpus_per_worker = 1\.5, but a worker gets a fraction of one GPU or "
            r"whole GPUs; set it to at most 1, or to a whole number$",
        ),
        (
            {"rollout": {"kv_cache_gib": 900}},
            r"expected to take [0-9.]+ GiB of memory .*1 x rollout 9\d\d\.\d.* has 500\.0 GiB; "
            r"lower",
        ),
    ],
)
def test_a_cluster_that_is_too_small_is_refused_with_the_settings_to_lower(sections, message):
    small = ModelShape(10**6, 2, 8, 100, 8, 32, num_tables=1)
    with pytest.raises(InvalidInputError, match=message):
        plan_workers(job(**sections), small, [], Resources(4, 1, 500))


def test_phases_that_take_turns_fit_where_together_they_would_not():
    two_cores = {
        "learner": {"cpus_per_rank": 2},
        "rollout": {"cpus_per_worker": 2},
        "discriminator": {"cpus_per_worker": 2},
    }
    cluster = Resources(2, 0, 1000)
    plan_workers(job(**two_cores, placement={"phases_share_cpus": True}), SHAPE, [], cluster)
    with pytest.raises(InvalidInputError, match="needs 6 CPUs"):
        plan_workers(job(**two_cores), SHAPE, [], cluster)


def test_a_cluster_of_exactly_the_right_size_will_do():
    needed = plan_workers(job(), SHAPE, [], PLENTY).memory_gib
    plan_workers(job(), SHAPE, [], Resources(3, 0, needed))
    with pytest.raises(InvalidInputError, match="GiB of memory"):
        plan_workers(job(), SHAPE, [], Resources(3, 0, needed - 0.01))


def test_reservations_are_a_hundredth_of_a_cpu_where_phases_take_turns():
    assert reserved_cpus(2, shares_cpus=False) == 2
    assert reserved_cpus(2, shares_cpus=True) == 0.01
    assert 64 * reserved_cpus(1, shares_cpus=True) < 1
