import pytest

from cluster.config.run_config import RunConfig
from cluster.learner.elastic_ranks import NodeResources, count_ranks
from cluster.resources.placement import reserved_by_other_workers

ONE_CPU = {"CPU": 1.0}


def idle(**amounts):
    return NodeResources(amounts, amounts)


def count(nodes, rank=ONE_CPU, others=None, at_least=1, at_most=8):
    return count_ranks(nodes, rank, others or {}, at_least=at_least, at_most=at_most)


def test_a_rank_is_never_split_over_nodes():
    # Together 3 + 3 CPUs would fit three ranks of 2, but each node fits one.
    assert count([idle(CPU=3), idle(CPU=3)], {"CPU": 2.0}) == 2


def test_the_scarcest_resource_of_a_node_limits_its_ranks():
    rank = {"CPU": 1.0, "GPU": 0.5}
    assert count([idle(CPU=8, GPU=1), idle(CPU=1, GPU=4), idle(CPU=8)], rank) == 2 + 1 + 0


def test_held_resources_and_nodes_without_the_labels_do_not_count():
    held = NodeResources({"CPU": 4.0}, {"CPU": 1.0})
    forbidden = NodeResources({"CPU": 4.0}, {})
    assert count([held, forbidden]) == 1


def test_resources_are_left_for_workers_that_are_still_starting():
    assert count([idle(CPU=4), idle(CPU=4)], others={"CPU": 5.0}) == 3


def test_the_minimum_of_ranks_has_priority_over_other_workers():
    assert count([idle(CPU=4)], others={"CPU": 9.0}, at_least=2) == 2
    assert count([NodeResources({"CPU": 4.0}, {"CPU": 1.0})], others={"CPU": 9.0}, at_least=2) == 1


def test_there_are_never_more_than_the_maximum_of_ranks():
    assert count([idle(CPU=64)], at_most=3) == 3


@pytest.mark.parametrize("part", [0.01, 0.1, 0.3, 0.7])
def test_fractions_without_an_exact_binary_form_are_counted_exactly(part):
    # 0.3 // 0.1 is 2 in floating point.
    assert count([idle(CPU=3 * part)], {"CPU": part}) == 3


def test_the_other_workers_are_all_but_the_ranks():
    config = {
        "name": "a",
        "model": {"name": "m"},
        "data": {"path": "d"},
        "learner": {"num_ranks": 5, "gpus_per_rank": 1},
        "rollout": {"num_workers": 4, "cpus_per_worker": 2, "gpus_per_worker": 0.5},
        "rewards": [{"function": "m:f", "num_workers": 3}],
    }
    reserved = reserved_by_other_workers(RunConfig.model_validate(config))
    assert reserved == {"CPU": 4 * 2 + 1 + 3, "GPU": 4 * 0.5}
    alternating = RunConfig.model_validate(config | {"placement": {"phases_share_cpus": True}})
    reserved = reserved_by_other_workers(alternating)
    assert reserved == {"CPU": pytest.approx((4 + 1 + 3) * 0.01), "GPU": 2}
