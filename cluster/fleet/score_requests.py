"""Requests to the fleets that score trajectories."""

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
    """A reward source's workers, its weight in the total, and what a prompt that it fails costs."""

    fleet: Fleet
    weight: float
    on_error: Literal["stop", "drop"] = "stop"


class Scorers(NamedTuple):
    """All fleets that score; the first two exclude each other."""

    discriminator: Fleet | None
    teacher: Fleet | None
    rewards: Mapping[str, RewardFleet]


def chunks(trajectories: Trajectories, count: int) -> list[NDArray[np.int64]]:
    """Split into at most count parts of whole groups, nearly equal in groups."""
    starts = group_starts(trajectories)
    bounds = np.append(starts, len(trajectories))
    cuts = np.linspace(0, len(starts), min(count, len(starts)) + 1).astype(int)
    return [np.arange(bounds[low], bounds[high]) for low, high in itertools.pairwise(cuts)]


async def rewards_of(
    source: RewardFleet, trajectories: Trajectories, expert: list[str]
) -> tuple[NDArray[np.float32], dict[int, str]]:
    """Have a reward source score trajectories, each worker a part of them.

    Args:
        source: whose on_error says what becomes of prompts that fail; the policy is
            cluster.fleet.failure_policy.after_failed_rewards.
        expert: the demonstration of each one's prompt, as text.

    Returns:
        [trajectory] rewards, NaN for the prompts that failed; and those, with the error of each.

    Raises:
        RewardError: if the policy is to stop.
    """
    num_prompts = len(set(trajectories.prompt_ids.tolist()))
    rewards = np.full(len(trajectories), np.nan, np.float32)
    failures: dict[int, str] = {}

    async def score(rows: NDArray[np.int64]) -> None:
        """Score these rows, less the prompts that fail, until none does."""
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

    await asyncio.gather(*map(score, chunks(trajectories, source.fleet.wanted)))
    return rewards, failures


async def spread(fleet: Fleet, method: str, trajectories: Trajectories) -> NDArray[np.float32]:
    """Call a method of a fleet's workers on trajectories, each worker on a part of them."""
    requests = [
        fleet.request(method, trajectories.select(rows))
        for rows in chunks(trajectories, fleet.wanted)
    ]
    scored: list[NDArray[np.float32]] = await asyncio.gather(*requests)
    return np.concatenate(scored)
