"""A worker group of learner ranks that grows and shrinks with its cluster, on real nodes."""

import json
import logging
import time
from pathlib import Path

import pytest
import ray

from cluster.config.run_config import RunConfig
from cluster.learner.ray_train_host import RayTrainHost
from cluster.learner.torch_trainer import scaling_config
from tests.fakes.counting_learner import (
    CHECKPOINT_EVERY_STEPS,
    TIMEOUT_S,
    CountingDriver,
    count_steps,
)
from tests.fakes.labelled_cluster import labelled_cluster

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]
RUN = "elastic"


def job(**sections):
    required = {"name": RUN, "model": {"name": "none"}, "data": {"path": "none"}}
    return RunConfig.model_validate({**required, **sections})


def test_the_scaling_config_has_the_jobs_bounds_fractions_of_gpus_and_labels():
    half = {"num_ranks": 4, "min_ranks": 2, "cpus_per_rank": 3, "gpus_per_rank": 0.5}
    labels = {"learner": {"pool": "big"}, "rollout": {"pool": "small"}}
    scaling = scaling_config(job(learner=half, placement={"node_labels": labels}), 7.0)
    assert scaling.num_workers == (2, 4)
    assert scaling.resources_per_worker == {"CPU": 3, "GPU": 0.5}
    assert scaling.use_gpu
    assert scaling.label_selector == {"pool": "big"}
    assert scaling.elastic_resize_monitor_interval_s == 7.0


def test_without_bounds_the_number_of_ranks_is_fixed_and_any_node_will_do():
    scaling = scaling_config(
        job(learner={"num_ranks": 4}, placement={"phases_share_cpus": True}), 7.0
    )
    assert (scaling.num_workers, scaling.label_selector, scaling.use_gpu) == (4, None, False)
    assert scaling.resources_per_worker == {"CPU": 0.01}


def births(place):
    """Return the records of the ranks in births.jsonl, by worker group, in the order of rank."""
    path = place / "births.jsonl"
    worker_groups = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        born = json.loads(line)
        worker_groups.setdefault(born.pop("worker group"), []).append(born)
    return [
        sorted(worker_groups[number], key=lambda born: born["rank"])
        for number in sorted(worker_groups)
    ]


def wait_for_gang(driver, place, number, size):
    """Return its ranks and its step, once it has written a checkpoint of its own."""
    deadline, target = time.monotonic() + TIMEOUT_S, None
    while True:
        assert time.monotonic() < deadline, births(place)
        step, worker_groups = ray.get(driver.step.remote(), timeout=60.0), births(place)
        if (
            target is None
            and len(worker_groups) == number + 1
            and len(worker_groups[number]) == size
        ):
            target = step + CHECKPOINT_EVERY_STEPS
            logger.info("worker group %d is there: %s", number, worker_groups[number])
        if target is not None and step > target:
            return births(place)[number], step
        time.sleep(0.1)  # other processes do the work


def test_an_elastic_worker_group_follows_the_nodes_and_resumes_from_the_newest_checkpoint(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    config = job(
        learner={"min_ranks": 1, "num_ranks": 3},
        placement={"timeout_s": TIMEOUT_S, "node_labels": {"learner": {"pool": "learner"}}},
    )
    # The head's two CPUs stay free, for the rollout and discriminator workers.
    with labelled_cluster(RUN, pool="steady", cpus=2) as cluster:
        cluster.add_node("learner")
        on_head = {"num_cpus": 0, "label_selector": {"pool": "steady"}}
        driver = ray.remote(CountingDriver).options(name="driver", max_concurrency=99, **on_head)
        driver = driver.remote(str(tmp_path))
        host = ray.remote(RayTrainHost).options(**on_head)
        host = host.remote(
            config, tmp_path, "driver", RUN, run_rank=count_steps, resize_every_s=2.0
        )

        first, steps_of_first = wait_for_gang(driver, tmp_path, 0, size=1)
        assert first == [{"rank": 0, "world_size": 1, "step": 0, "pool": "learner"}]
        second_node = cluster.add_node("learner")
        second, steps_of_second = wait_for_gang(driver, tmp_path, 1, size=2)
        assert [born["world_size"] for born in second] == [2, 2]
        assert {born["pool"] for born in second} == {"learner"}
        cluster.lose(second_node)
        third, _ = wait_for_gang(driver, tmp_path, 2, size=1)
        assert [born["world_size"] for born in third] == [1]
        for ranks, steps_before in ((second, steps_of_first), (third, steps_of_second)):
            (step,) = {born["step"] for born in ranks}
            assert step % CHECKPOINT_EVERY_STEPS == 0
            assert step > steps_before - CHECKPOINT_EVERY_STEPS
        ray.kill(host)
        ray.kill(driver)
