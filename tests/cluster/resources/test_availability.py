import io

import pytest
from rich.console import Console

from actors.errors import InvalidInputError
from cluster.config.run_config import RunConfig
from cluster.resources.availability import (
    GRACE_S,
    Node,
    missing_for_worker,
    missing_resources,
    wait_for_resources,
)
from cluster.resources.placement import Plan, WorkerPlan


def worker(kind, number, cpus, gpus):
    return WorkerPlan(kind, number, cpus, gpus, f"{kind}.num_workers", None)


PLAN = Plan((worker("learner", 2, 1.0, 1.0), worker("rollout", 4, 2.0, 0.5)), shares_cpus=False)


def config(when_full):
    required = {"name": "run", "model": {"name": "m"}, "data": {"path": "d"}}
    return RunConfig.model_validate(required | {"placement": {"when_full": when_full}})


def test_what_is_missing_is_named_with_what_there_is():
    assert not missing_resources(PLAN, {"CPU": 10.0, "GPU": 4.0})
    assert missing_resources(PLAN, {"CPU": 9.0, "GPU": 4.0}) == "10 CPUs (9 are free)"
    assert missing_resources(PLAN, {"CPU": 9.5}) == "10 CPUs (9.5 are free) and 4 GPUs (0 are free)"


def test_parts_that_make_a_whole_in_decimals_need_no_more_than_it():
    tenths = Plan((worker("rollout", 3, 0.1, 0.1),), shares_cpus=False)
    assert not missing_resources(tenths, {"CPU": 0.3, "GPU": 0.3})


def test_phases_that_share_cpus_need_almost_none():
    assert not missing_resources(PLAN._replace(shares_cpus=True), {"CPU": 0.06, "GPU": 4.0})


class Cluster:
    """Is full for so many looks."""

    def __init__(self, looks):
        self.looks, self.paused_s = looks, 0.0

    def free(self):
        self.looks -= 1
        return {} if self.looks >= 0 else {"CPU": 10.0, "GPU": 4.0}

    def pause(self, seconds):
        self.paused_s += seconds


def wait(when_full, looks):
    cluster, text = Cluster(looks), io.StringIO()
    console = Console(file=text, width=200)
    wait_for_resources(config(when_full), PLAN, console, free=cluster.free, pause=cluster.pause)
    return cluster.paused_s, text.getvalue()


def test_a_run_that_may_wait_prints_every_minute_what_is_missing():
    paused_s, printed = wait("wait", looks=61)
    assert paused_s == 122.0
    lines = printed.splitlines()
    assert [line.split("|")[0].strip() for line in lines] == ["0 s", "60 s", "120 s"]
    assert all("needs 10 CPUs (0 are free) and 4 GPUs (0 are free)" in line for line in lines)


def test_a_run_that_may_not_wait_gives_a_run_that_just_ended_time_to_release_its_workers():
    assert wait("fail", looks=3) == (6.0, "")
    with pytest.raises(InvalidInputError, match=r"needs 10 CPUs .* set placement.when_full=wait"):
        wait("fail", looks=int(GRACE_S))


BUSY = Node({"CPU": 1.0, "GPU": 0.0}, {"pool": "a"})
FREE = Node({"CPU": 4.0, "GPU": 1.0}, {"pool": "b"})


@pytest.mark.parametrize(
    ("wanted", "labels", "missing"),
    [
        ({"CPU": 1.0, "GPU": 1.0}, {}, ""),
        ({"CPU": 1.0, "GPU": 0.0}, {"pool": "a"}, ""),
        (
            {"CPU": 1.0, "GPU": 1.0},
            {"pool": "a"},
            "1 CPU and 1 GPU on one node with the label pool=a; free on one node are at most "
            "1 CPU and 0 GPU",
        ),
        ({"CPU": 5.0}, {}, "5 CPU on one node; free on one node are at most 4 CPU"),
        ({"CPU": 1.0}, {"pool": "c"}, "a node with the label pool=c; no living node has it"),
    ],
)
def test_a_worker_misses_what_no_single_node_has(wanted, labels, missing):
    assert missing_for_worker(wanted, labels, [BUSY, FREE]) == missing
