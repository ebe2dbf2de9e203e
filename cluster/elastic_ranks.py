"""How many ranks a gang of the learner gets where that may vary. Pure: Ray is not asked here.

Ray Train starts, grows and shrinks such a gang, but what it counts is what the nodes have in all,
whoever holds it and whatever their labels (Ray 2.60). On nodes that other workers share it would
wait for ever for room that is not there; so the count is made here.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

UNITS = 10_000
"""Ray counts resources in parts of this size, so whole numbers of them compare exactly."""


class NodeRoom(NamedTuple):
    """A living node as the learner finds it; amounts by Ray's names, CPU and GPU."""

    capacity: Mapping[str, float]
    """What it has in all."""
    free: Mapping[str, float]
    """What nobody holds but this gang itself; nothing if ranks may not go there."""


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
    gang would take their place and never be fed. Only at_least ranks come before them.

    Args:
        nodes: all that live.
        rank: what one takes, all of it on one node.
        others: what the other workers take together.
        at_least: ranks that the learner needs.
        at_most: ranks that it can use.

    Returns:
        The number of ranks; below at_least there is no room for a gang now.
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
