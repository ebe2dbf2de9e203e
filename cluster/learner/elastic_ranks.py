"""The number of ranks of an elastic worker group (learner.min_ranks is set).

Ray Train starts, grows and shrinks an elastic worker group, but it counts the nodes' total
resources, also those that others hold and those of nodes with the wrong labels (Ray 2.60). On nodes
shared with other workers it would wait forever for resources that are not free. So they are
counted here.
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
    """Ray Train's elastic scaling policy, with a count of the resources that are free."""

    def __init__(self, scaling: ScalingConfig, others: Mapping[str, float]) -> None:
        """Add to Ray Train's settings what the run's other workers reserve."""
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
        """Keep or resize the running worker group; the resources it holds count as free for it."""
        self._ranks_on = Counter(rank.metadata.node_id for rank in worker_group_state.workers)
        return super().make_decision_for_running_worker_group(
            worker_group_state, worker_group_status
        )

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Start a worker group once resources are free. Ray Train polls this without a pause."""
        decision = super().make_decision_for_non_running_worker_group()
        if isinstance(decision, NoopDecision):
            time.sleep(RESOURCE_CHECK_S)
        return decision

    def before_controller_execute_resize_decision(self, resize_decision: ResizeDecision) -> None:
        """Note that the current worker group ends, so that it holds no resources any more."""
        super().before_controller_execute_resize_decision(resize_decision)
        self._ranks_on = Counter()

    def _count_possible_workers(self, _reserved: object) -> int:
        rank, labels = self._rank, self._labels.items()
        free = available_resources_per_node()  # type: ignore[no-untyped-call]
        nodes = []
        for node in ray.nodes():  # type: ignore[no-untyped-call]
            if not node["Alive"]:
                continue
            node_id, has_labels = node["NodeID"], labels <= node["Labels"].items()
            held, amounts = self._ranks_on[node_id], free.get(node_id, {})
            for_ranks = {name: amounts.get(name, 0.0) + held * rank[name] for name in rank}
            nodes.append(NodeResources(node["Resources"], for_ranks if has_labels else {}))
        return count_ranks(
            nodes,
            rank,
            self._others,
            at_least=self.scaling_config.min_workers,
            at_most=self.scaling_config.max_workers,
        )


class ElasticTrainer(TorchTrainer):
    """Ray Train's trainer with AvailableResourcesPolicy, for which Ray Train has no setting."""

    def __init__(self, *args: Any, others: Mapping[str, float], **settings: Any) -> None:  # noqa: ANN401
        """Add to a trainer's settings what the run's other workers reserve."""
        super().__init__(*args, **settings)
        self._others = others

    def _initialize_and_run_controller(self, **settings: Any) -> Any:  # noqa: ANN401
        policy = AvailableResourcesPolicy(cast("ScalingConfig", self.scaling_config), self._others)
        settings["scaling_policy"] = policy
        return super()._initialize_and_run_controller(**settings)


UNITS = 10_000
"""Units per resource: Ray counts in 1 / 10,000, so whole numbers of units compare exactly."""


class NodeResources(NamedTuple):
    """The resources of a living node, by Ray's names: CPU and GPU."""

    capacity: Mapping[str, float]
    """Total resources of the node."""
    free: Mapping[str, float]
    """Free for this worker group, what it holds itself included; empty without the labels."""


def count_ranks(
    nodes: Sequence[NodeResources],
    rank: Mapping[str, float],
    others: Mapping[str, float],
    *,
    at_least: int,
    at_most: int,
) -> int:
    """Return how many ranks fit now and leave enough resources for the run's other workers.

    The other workers may still be starting, or wait for a node that was lost. A worker group that
    took their resources would wait for them forever. Only at_least ranks have priority over them.

    Returns:
        At most at_most; below at_least no worker group can start now.
    """
    now = sum(_times(node.free, rank) for node in nodes)
    left = {
        name: sum(node.capacity.get(name, 0.0) for node in nodes) - others.get(name, 0.0)
        for name in rank
    }
    return min(now, max(_times(left, rank), at_least), at_most)


def _times(amounts: Mapping[str, float], rank: Mapping[str, float]) -> int:
    """Return how many ranks fit in these amounts."""
    whole = [
        round(amounts.get(name, 0.0) * UNITS) // round(amount * UNITS)
        for name, amount in rank.items()
    ]
    return max(min(whole), 0)
