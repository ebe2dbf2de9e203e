"""A replay buffer of rollouts, so that the discriminator does not forget those of earlier steps.

Rollouts are stored with the demonstrations of their prompt, so that both classes of an update have
the same prompts; otherwise the logit would depend on the frequency of the prompt in each class.

With replay the policy class is a mixture of policies, so the logit estimates
log expert - log mixture. Therefore its fraction of an update is limited.
"""

from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignment.mdp.trajectories import Trajectories, concatenate


class PromptGroup(NamedTuple):
    """The responses of both classes to one prompt."""

    rollouts: Trajectories
    demonstrations: Trajectories


def pair_by_prompt(rollouts: Trajectories, demonstrations: Trajectories) -> list[PromptGroup]:
    """Split a batch into one group a prompt, in the order in which the prompts first appear.

    Args:
        rollouts: responses of the policy, several a prompt.
        demonstrations: responses of the expert to the same prompts.

    Raises:
        ValueError: if a prompt has responses of one class only.
    """
    unpaired = np.setxor1d(rollouts.prompt_ids, demonstrations.prompt_ids)
    if len(unpaired):
        raise ValueError(
            f"{len(unpaired)} prompts have rollouts or demonstrations but not both, first of them "
            f"prompt_id {unpaired[0]}; the classes must share their prompts"
        )
    return [
        PromptGroup(
            rollouts.select(np.flatnonzero(rollouts.prompt_ids == prompt_id)),
            demonstrations.select(np.flatnonzero(demonstrations.prompt_ids == prompt_id)),
        )
        for prompt_id in dict.fromkeys(rollouts.prompt_ids.tolist())
    ]


def join_groups(groups: list[PromptGroup]) -> PromptGroup:
    """Join the trajectories of several groups into one batch of each class."""
    return PromptGroup(
        concatenate([group.rollouts for group in groups]),
        concatenate([group.demonstrations for group in groups]),
    )


class Replay:
    """A first-in, first-out store of prompt groups, drawn from uniformly.

    It has no random state: a draw is a function of the seed, its number and the stored groups.

    First-in, first-out bounds the age of the groups, and so the distance between the mixture and
    the policy; a reservoir of all history would not.

    Example:
        replay = Replay(max_groups=1024, seed=0)
        replay.add(pair_by_prompt(rollouts, demonstrations))
        earlier = replay.draw(num_groups=5, number=17)
    """

    def __init__(self, max_groups: int, seed: int) -> None:
        self._groups: deque[PromptGroup] = deque(maxlen=max_groups)
        self._seed = seed

    def __len__(self) -> int:
        """Return the number of groups held."""
        return len(self._groups)

    def add(self, groups: list[PromptGroup]) -> None:
        """Store these groups; the oldest are removed if there are too many."""
        self._groups.extend(groups)

    def draw(self, num_groups: int, number: int) -> list[PromptGroup]:
        """Draw without replacement.

        Args:
            number: of this draw; the same number gives the same choice.
        """
        rng = np.random.default_rng([self._seed % 2**64, number])
        order = rng.permutation(len(self._groups))
        return [self._groups[index] for index in order[:num_groups]]

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return the stored groups as plain arrays for numpy.savez."""
        joined = join_groups(list(self._groups))
        arrays: dict[str, NDArray[np.generic]] = {}
        for name, trajectories in joined._asdict().items():
            arrays[f"{name}.group_sizes"] = np.asarray(
                [len(getattr(group, name)) for group in self._groups], np.int64
            )
            for column, values in trajectories._asdict().items():
                arrays[f"{name}.{column}"] = values
        return arrays

    def restore(self, state: dict[str, NDArray[np.generic]]) -> None:
        """Restore the groups that state returned, in the same order."""
        classes = []
        for name in PromptGroup._fields:
            trajectories = Trajectories(
                *(state[f"{name}.{column}"] for column in Trajectories._fields)  # type: ignore[arg-type]
            )
            ends = np.cumsum(state[f"{name}.group_sizes"])
            parts = np.split(np.arange(len(trajectories)), ends[:-1]) if len(ends) else []
            classes.append([trajectories.select(part) for part in parts])
        self._groups.clear()
        self._groups.extend(PromptGroup(*pair) for pair in zip(*classes, strict=True))


def num_replayed_groups(num_fresh: int, replay_fraction: float) -> int:
    """Return the number of replayed groups that gives this fraction of all groups."""
    return round(num_fresh * replay_fraction / (1.0 - replay_fraction))
