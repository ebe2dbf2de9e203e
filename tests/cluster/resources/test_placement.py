import pytest

from actors.errors import InvalidInputError
from cluster.config.run_config import RunConfig
from cluster.resources.memory import ACTIVATIONS_PER_LAYER, GIB, PROCESS_GIB
from cluster.resources.model_files import ModelSize
from cluster.resources.placement import RAY_GIB, Resources, plan, reserved_cpus

# 100 of 500 parameters (in units of GIB) are embeddings, 100 are in each of 4 layers.
SIZE = ModelSize(num_parameters=5 * GIB, num_layers=4, hidden_size=2**15, vocab_size=2**15)
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
    made = plan(config, SIZE, [None], PLENTY)
    assert [(w.kind, w.num_workers, w.cpus, w.gpus) for w in made.workers] == [
        ("learner", 2, 3, 0),
        ("rollout", 4, 1, 0.5),
        ("discriminator", 1, 1, 0),
        ("reward 0", 5, 1, 0),
    ]


def test_a_teacher_is_planned_by_its_own_settings():
    teacher = {"model": "t", "num_workers": 3, "cpus_per_worker": 2, "gpus_per_worker": 1}
    config = job(teacher=teacher, discriminator={"num_workers": 5, "cpus_per_worker": 7})
    worker = plan(config, SIZE, [], PLENTY, SIZE).workers[-1]
    assert (worker.kind, worker.num_workers, worker.cpus, worker.gpus) == ("teacher", 3, 2, 1)
    assert worker.memory_gib == PROCESS_GIB
    with pytest.raises(InvalidInputError, match=r"lower teacher\.gpus_per_worker \(0 computes"):
        plan(config, SIZE, [], PLENTY._replace(gpus=2), SIZE)


@pytest.mark.parametrize("objective", [{"divergence_weight": 0}, {"steps": 0}])
def test_no_discriminator_is_planned_where_none_is_started(objective):
    made = plan(job(objective=objective, rewards=[{"function": "m:f"}]), SIZE, [None], PLENTY)
    assert [worker.kind for worker in made.workers] == ["learner", "rollout", "reward 0"]


def test_memory_is_worked_out_by_the_documented_formula():
    config = job(
        learner={"num_ranks": 2, "max_tokens_per_microbatch": 8192},
        rollout={"dtype": "float32", "kv_cache_gib": 0.25},
        discriminator={"num_layers": 1},
        rewards=[{"model": "m"}],
    )
    made = plan(config, SIZE, [ModelSize(GIB, 1, 1, 1)], PLENTY)
    a_layer = 8192 * ACTIVATIONS_PER_LAYER * 2**15 / GIB  # 10 GiB
    embeddings = 2**15 * 2**15 / GIB  # 1 of the 5 Gi parameters; the layers hold 1 each
    assert embeddings == 1
    learner, rollout, discriminator, reward = (w.memory_gib - PROCESS_GIB for w in made.workers)
    assert learner == pytest.approx(5 * (16 + 4) / 2 + 4 * a_layer)
    assert rollout == pytest.approx(2 * 4 * 5 + 0.25)
    assert discriminator == pytest.approx(2 * 16 + a_layer)
    assert reward == pytest.approx(4)
    assert made.memory_gib == pytest.approx(
        RAY_GIB + 5 * PROCESS_GIB + 2 * learner + rollout + discriminator + reward
    )


def test_a_frozen_discriminator_no_reference_and_16_bits_take_less():
    config = job(discriminator={"tuning": "frozen"}, objective={"reference": {"coefficient": 0.0}})
    full, lean = (plan(each, SIZE, [], PLENTY).workers for each in (job(), config))
    assert full[0].memory_gib - lean[0].memory_gib == pytest.approx(5 * 4)
    assert full[2].memory_gib - lean[2].memory_gib == pytest.approx(5 * 12)
    wide = plan(job(rollout={"dtype": "float32"}), SIZE, [], PLENTY).workers[1]
    assert wide.memory_gib - full[1].memory_gib == pytest.approx(5 * 4)


def test_where_ranks_may_vary_the_cluster_must_hold_the_fewest():
    config = job(learner={"num_ranks": 100, "min_ranks": 2})
    ranks = plan(config, SIZE, [], PLENTY).workers[0]
    assert ranks == plan(job(learner={"num_ranks": 2}), SIZE, [], PLENTY).workers[0]._replace(
        count_setting="learner.min_ranks"
    )


def test_rollout_and_learner_may_share_one_gpu():
    config = job(rollout={"gpus_per_worker": 0.5}, learner={"gpus_per_rank": 0.5})
    made = plan(config, SIZE, [], Resources(8, 1, 10_000))
    assert [worker.gpus for worker in made.workers] == [0.5, 0.5, 0]
    # 3 * 0.8 + 0.6 is a little more than 3 in floating point.
    parts = job(rollout={"gpus_per_worker": 0.6}, learner={"num_ranks": 3, "gpus_per_rank": 0.8})
    plan(parts, SIZE, [], Resources(8, 3, 10_000))


def test_what_lies_on_a_gpu_is_not_host_memory():
    on_gpus = {"gpus_per_worker": 1}
    config = job(learner={"gpus_per_rank": 1}, rollout=on_gpus, discriminator=on_gpus)
    made = plan(config, SIZE, [], PLENTY)
    assert {worker.memory_gib for worker in made.workers} == {PROCESS_GIB}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"learner": {"num_ranks": 3}},
            r"asks for 5 CPUs \(3 x learner with 1, 1 x rollout with 1, 1 x discriminator with 1\) "
            r"and the cluster has 4; lower learner\.num_ranks or learner\.cpus_per_rank, or set "
            r"placement\.phases_share_cpus",
        ),
        (
            {"rollout": {"num_workers": 5}, "placement": {"phases_share_cpus": True}},
            r"asks for 5 CPUs \(5 x rollout with 1\) and the cluster has 4; lower "
            r"rollout\.num_workers or rollout\.cpus_per_worker$",
        ),
        (
            {"learner": {"num_ranks": 2, "gpus_per_rank": 1}},
            r"asks for 2 GPUs \(2 x learner with 1\) and the cluster has 1; lower "
            r"learner\.gpus_per_rank \(0 computes on the CPU\)",
        ),
        (
            {"learner": {"num_ranks": 9, "min_ranks": 3}},
            r"asks for 5 CPUs \(3 x learner .* lower learner\.min_ranks or learner\.cpus_per_rank",
        ),
        (
            {"rollout": {"gpus_per_worker": 1.5}},
            r"^rollout\.gpus_per_worker = 1\.5, but a worker gets a part of one GPU or whole ones; "
            r"set it to at most 1, or to a whole number$",
        ),
        (
            {"rollout": {"kv_cache_gib": 900}},
            r"expected to take [0-9.]+ GiB of memory .*1 x rollout 9\d\d\.\d.* has 500\.0 GiB; "
            r"lower",
        ),
    ],
)
def test_a_cluster_that_is_too_small_is_refused_with_the_settings_to_lower(sections, message):
    small = ModelSize(10**6, 2, 8, 100)
    with pytest.raises(InvalidInputError, match=message):
        plan(job(**sections), small, [], Resources(4, 1, 500))


def test_phases_that_take_turns_fit_where_together_they_would_not():
    two_cores = {
        "learner": {"cpus_per_rank": 2},
        "rollout": {"cpus_per_worker": 2},
        "discriminator": {"cpus_per_worker": 2},
    }
    cluster = Resources(2, 0, 1000)
    plan(job(**two_cores, placement={"phases_share_cpus": True}), SIZE, [], cluster)
    with pytest.raises(InvalidInputError, match="asks for 6 CPUs"):
        plan(job(**two_cores), SIZE, [], cluster)


def test_a_cluster_of_exactly_the_right_size_will_do():
    needed = plan(job(), SIZE, [], PLENTY).memory_gib
    plan(job(), SIZE, [], Resources(3, 0, needed))
    with pytest.raises(InvalidInputError, match="GiB of memory"):
        plan(job(), SIZE, [], Resources(3, 0, needed - 0.01))


def test_reservations_are_a_hundredth_of_a_cpu_where_phases_take_turns():
    assert reserved_cpus(2, shares_cpus=False) == 2
    assert reserved_cpus(2, shares_cpus=True) == 0.01
    assert 64 * reserved_cpus(1, shares_cpus=True) < 1
