"""How many ranks the learner's worker group gets where that number may vary.

Ray Train starts, grows and shrinks such a worker group, but what it counts is what the nodes have
in all, whoever holds it and whatever their labels (Ray 2.60). On nodes that other workers share it
would wait for ever for room that is not there; so the count is made here.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import ray
from ray._private.state import available_resources_per_node
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
)
from ray.train.v2.api.config import ScalingConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer

RESOURCE_CHECK_S = 1.0


class AvailableResourcesPolicy(ElasticScalingPolicy):
    """Ray Train's policy for a number of ranks that may vary, with our count of the room."""

    def __init__(self, scaling: ScalingConfig, others: Mapping[str, float]) -> None:
        """Take what Ray Train gives its own policy, and what the run's other workers reserve."""
        super().__init__(scaling)
        self._rank = cast("dict[str, float]", scaling.resources_per_worker)
        self._labels = cast("dict[str, str]", scaling.label_selector or {})
        self._others = others
        self._ranks_on: Counter[str] = Counter()

    def make_decision_for_running_worker_group(
        self,
        worker_group_state: Any,  # noqa: ANN401  # Ray Train's own classes
        worker_group_status: Any,  # noqa: ANN401
    ) -> ScalingDecision:
        """Keep or replace the worker group that works; what it holds counts as free for it."""
        self._ranks_on = Counter(rank.metadata.node_id for rank in worker_group_state.workers)
        return super().make_decision_for_running_worker_group(
            worker_group_state, worker_group_status
        )

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Begin a worker group once resources are free. Ray Train polls this without a pause."""
        decision = super().make_decision_for_non_running_worker_group()
        if isinstance(decision, NoopDecision):
            time.sleep(RESOURCE_CHECK_S)
        return decision

    def before_controller_execute_resize_decision(self, resize_decision: ResizeDecision) -> None:
        """Note that the worker group there was ends now."""
        super().before_controller_execute_resize_decision(resize_decision)
        self._ranks_on = Counter()

    def _count_possible_workers(self, _reserved: object) -> int:
        rank, labels = self._rank, self._labels.items()
        free = available_resources_per_node()  # type: ignore[no-untyped-call]
        rooms = []
        for node in ray.nodes():  # type: ignore[no-untyped-call]
            if not node["Alive"]:
                continue
            number, has = node["NodeID"], free.get(node["NodeID"], {})
            may_go_there = labels <= node["Labels"].items()
            held = self._ranks_on[number]
            for_ranks = {name: has.get(name, 0.0) + held * rank[name] for name in rank}
            rooms.append(NodeRoom(node["Resources"], for_ranks if may_go_there else {}))
        return ranks_with_room(
            rooms,
            rank,
            self._others,
            at_least=self.scaling_config.min_workers,
            at_most=self.scaling_config.max_workers,
        )


class ElasticTrainer(TorchTrainer):
    """Ray Train's trainer with AvailableResourcesPolicy, for which it has no setting."""

    def __init__(self, *args: Any, others: Mapping[str, float], **settings: Any) -> None:  # noqa: ANN401
        """Take a trainer's settings, and what the run's other workers reserve."""
        super().__init__(*args, **settings)
        self._others = others

    def _initialize_and_run_controller(self, **settings: Any) -> Any:  # noqa: ANN401
        policy = AvailableResourcesPolicy(cast("ScalingConfig", self.scaling_config), self._others)
        settings["scaling_policy"] = policy
        return super()._initialize_and_run_controller(**settings)


UNITS = 10_000
"""Ray counts resources in parts of this size, so whole numbers of them compare exactly."""


class NodeRoom(NamedTuple):
    """A living node as the learner finds it; amounts by Ray's names, CPU and GPU."""

    capacity: Mapping[str, float]
    """What it has in all."""
    free: Mapping[str, float]
    """What nobody holds but this worker group itself; nothing if ranks may not go there."""


def ranks_with_room(
    nodes: Sequence[NodeRoom],
    rank: Mapping[str, float],
    others: Mapping[str, float],
    *,
    at_least: int,
    at_most: int,
) -> int:
    """Count the ranks that find room now and leave enough for the run's other workers.

    Those others may still be starting, or wait for a node that was lost; without care for them a
    worker group would take their place and never be fed. Only at_least ranks come before them.

    Args:
        rank: what one takes, all of it on one node.
        others: what the other workers take together.
        at_least: ranks that the learner needs.
        at_most: ranks that it can use.

    Returns:
        The number of ranks; below at_least there is no room for a worker group now.
    """
    now = sum(_times(node.free, rank) for node in nodes)
    left = {
        name: sum(node.capacity.get(name, 0.0) for node in nodes) - others.get(name, 0.0)
        for name in rank
    }
    return min(now, max(_times(left, rank), at_least), at_most)


def _times(amounts: Mapping[str, float], rank: Mapping[str, float]) -> int:
    """Return how many ranks these amounts would do for."""
    whole = [
        round(amounts.get(name, 0.0) * UNITS) // round(amount * UNITS)
        for name, amount in rank.items()
    ]
    return max(min(whole), 0)
