"""Requests to the fleets that score trajectories, each split over the fleet's workers."""

import asyncio
import itertools
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.errors import RewardError
from alignment.mdp.trajectories import Trajectories, group_starts
from cluster.fleet import failure_policy
from cluster.fleet.failure_policy import Decision
from cluster.fleet.fleet import Fleet


class RewardFleet(NamedTuple):
    """The workers of a reward source, its weight in the sum, and what to do when it fails."""

    fleet: Fleet
    weight: float
    on_error: Literal["stop", "drop"] = "stop"


class Scorers(NamedTuple):
    """All fleets that score. A run has a discriminator or a teacher, not both."""

    discriminator: Fleet | None
    teacher: Fleet | None
    rewards: Mapping[str, RewardFleet]


def split_by_group(trajectories: Trajectories, count: int) -> list[NDArray[np.int64]]:
    """Split the rows into at most count parts of whole groups, nearly equal in groups."""
    starts = group_starts(trajectories)
    bounds = np.append(starts, len(trajectories))
    cuts = np.linspace(0, len(starts), min(count, len(starts)) + 1).astype(int)
    return [np.arange(bounds[low], bounds[high]) for low, high in itertools.pairwise(cuts)]


async def request_rewards(
    source: RewardFleet, trajectories: Trajectories, expert: list[str]
) -> tuple[NDArray[np.float32], dict[int, str]]:
    """Request the rewards of one source, each of its workers scoring a part of the trajectories.

    Args:
        expert: the demonstration for each trajectory's prompt, as text.

    Returns:
        [trajectory] rewards, NaN for the prompts that failed; and the error of each failed prompt.

    Raises:
        RewardError: if failure_policy.after_failed_rewards decides to stop.
    """
    num_prompts = len(set(trajectories.prompt_ids.tolist()))
    rewards = np.full(len(trajectories), np.nan, np.float32)
    failures: dict[int, str] = {}

    async def score(rows: NDArray[np.int64]) -> None:
        """Score these rows; without the prompts that failed, until no prompt fails."""
        while len(rows):
            texts = [expert[row] for row in rows]
            try:
                part = trajectories.select(rows)
                rewards[rows] = await source.fleet.request("score", part, texts)
                return
            except RewardError as error:
                failed = set(error.prompt_ids) & set(trajectories.prompt_ids[rows].tolist())
                failures.update(dict.fromkeys(failed, str(error)))
                num_failed = len(failures) if failed else 0
                policy = failure_policy.after_failed_rewards(
                    source.on_error, num_failed, num_prompts
                )
                if policy is Decision.STOP:
                    raise
                rows = rows[~np.isin(trajectories.prompt_ids[rows], list(failed))]

    await asyncio.gather(*map(score, split_by_group(trajectories, source.fleet.target_size)))
    return rewards, failures


async def request_scores(
    fleet: Fleet, method: str, trajectories: Trajectories
) -> NDArray[np.float32]:
    """Call a scoring method, each worker of the fleet scoring a part of the trajectories."""
    requests = [
        fleet.request(method, trajectories.select(rows))
        for rows in split_by_group(trajectories, fleet.target_size)
    ]
    scored: list[NDArray[np.float32]] = await asyncio.gather(*requests)
    return np.concatenate(scored)
