"""Scores of a step's trajectories: the discriminator's logits and the reward sources' sum."""

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignment.trajectories import Trajectories
from cluster.fleet import Fleet
from cluster.learner_desk import group_starts


class RewardFleet(NamedTuple):
    """A reward source's workers and its weight in the total."""

    fleet: Fleet
    weight: float


class Scores(NamedTuple):
    """What a step's trajectories are worth."""

    discriminator_logits: NDArray[np.float32]
    """[trajectory] high for expert; zeros without a discriminator."""
    rewards: NDArray[np.float32]
    """[trajectory] weighted sum of the reward sources; zeros without any."""
    metrics: dict[str, float]


def chunks(trajectories: Trajectories, count: int) -> list[NDArray[np.int64]]:
    """Split into at most count parts of whole groups, nearly equal in groups."""
    starts = group_starts(trajectories)
    bounds = np.append(starts, len(trajectories))
    cuts = np.linspace(0, len(starts), min(count, len(starts)) + 1).astype(int)
    return [np.arange(bounds[low], bounds[high]) for low, high in itertools.pairwise(cuts)]


async def spread(
    fleet: Fleet, trajectories: Trajectories, *columns: list[str]
) -> NDArray[np.float32]:
    """Have a fleet score trajectories, each of its workers a part."""
    requests = [
        fleet.request(
            "score", trajectories.select(rows), *([texts[i] for i in rows] for texts in columns)
        )
        for rows in chunks(trajectories, fleet.wanted)
    ]
    scored: list[NDArray[np.float32]] = await asyncio.gather(*requests)
    return np.concatenate(scored)


class Scorer:
    """Trains the discriminator on each step, then has everything scored."""

    def __init__(
        self,
        discriminator: Fleet | None,
        rewards: Mapping[str, RewardFleet],
        demonstrations: Callable[[NDArray[np.int64]], Trajectories],
        expert_text: Callable[[int], str],
        shared_folder: Path,
    ) -> None:
        """Bind the fleets.

        Args:
            discriminator: its fleet, or None.
            rewards: name to source.
            demonstrations: of rows of the data set, one each.
            expert_text: the expert's response to a row.
            shared_folder: where the training worker leaves its weights for the others.
        """
        self.discriminator, self._rewards = discriminator, rewards
        self._demonstrations, self._expert_text = demonstrations, expert_text
        self._shared_folder = shared_folder
        self._num_updates = 0

    async def update(self, trajectories: Trajectories) -> dict[str, float]:
        """Train the discriminator on fresh rollouts and their prompts' demonstrations."""
        if self.discriminator is None:
            return {}
        began = time.monotonic()
        rows = trajectories.prompt_ids[group_starts(trajectories)]
        metrics: dict[str, float] = await self.discriminator.request(
            "update", trajectories, self._demonstrations(rows), lead_only=True
        )
        if self.discriminator.wanted > 1:
            await self.share_weights()
        return metrics | {"time/discriminator_s": time.monotonic() - began}

    async def share_weights(self) -> None:
        """Give the training worker's weights to those that only score."""
        if self.discriminator is None:
            return
        self._num_updates += 1
        folder = self._shared_folder / f"update-{self._num_updates % 2}"
        await self.discriminator.request("save", folder, lead_only=True)
        self.discriminator.hold((self._num_updates, folder))

    async def score(self, trajectories: Trajectories) -> Scores:
        """Score a step's trajectories by every source there is.

        Returns:
            The logits, the total of the rewards, and each source's mean.

        Raises:
            RewardError: if a reward could not be computed.
        """
        began = time.monotonic()
        logits = np.zeros(len(trajectories), np.float32)
        total = np.zeros(len(trajectories), np.float32)
        metrics: dict[str, float] = {}
        if self.discriminator is not None:
            logits = await spread(self.discriminator, trajectories)
        expert = [self._expert_text(int(row)) for row in trajectories.prompt_ids]
        for name, source in self._rewards.items():
            values = await spread(source.fleet, trajectories, expert)
            total += np.float32(source.weight) * values
            metrics[f"reward/{name}"] = float(values.mean())
        metrics["time/scoring_s"] = time.monotonic() - began
        return Scores(logits, total, metrics)
