"""Scores of a step's trajectories: expert-positive logits and the reward sources' sum.

The logits are a discriminator's estimates or, where the expert is a model, exact: the teacher's
log-probabilities minus those recorded at sampling.
"""

import asyncio
import itertools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.config import Level
from alignment.trajectories import EMPTY, Trajectories
from cluster.expert_data import Data
from cluster.fleet import Fleet
from cluster.learner_desk import group_starts


class RewardFleet(NamedTuple):
    """A reward source's workers and its weight in the total."""

    fleet: Fleet
    weight: float


class Judges(NamedTuple):
    """All fleets that score; the first two exclude each other."""

    discriminator: Fleet | None
    teacher: Fleet | None
    rewards: Mapping[str, RewardFleet]


class Scores(NamedTuple):
    """What a step's trajectories are worth."""

    discriminator_logits: NDArray[np.float32]
    """[trajectory] or [response token], high for expert: as the task for the learner has them."""
    rewards: NDArray[np.float32]
    """[trajectory] weighted sum of the reward sources; zeros without any."""
    metrics: dict[str, float]
    teacher_states: NDArray[np.float32] | None = None
    """[response token, hidden] at level state."""


def chunks(trajectories: Trajectories, count: int) -> list[NDArray[np.int64]]:
    """Split into at most count parts of whole groups, nearly equal in groups."""
    starts = group_starts(trajectories)
    bounds = np.append(starts, len(trajectories))
    cuts = np.linspace(0, len(starts), min(count, len(starts)) + 1).astype(int)
    return [np.arange(bounds[low], bounds[high]) for low, high in itertools.pairwise(cuts)]


async def spread(
    fleet: Fleet, method: str, trajectories: Trajectories, *columns: list[str]
) -> NDArray[np.float32]:
    """Call a method of a fleet's workers on trajectories, each worker on a part of them."""
    requests = [
        fleet.request(
            method, trajectories.select(rows), *([texts[i] for i in rows] for texts in columns)
        )
        for rows in chunks(trajectories, fleet.wanted)
    ]
    scored: list[NDArray[np.float32]] = await asyncio.gather(*requests)
    return np.concatenate(scored)


def exact_logits(
    teacher_logprobs: NDArray[np.float32], trajectories: Trajectories, level: Level
) -> NDArray[np.float32]:
    """Return log(teacher / sampling policy) of responses, or of every prefix of them.

    Args:
        teacher_logprobs: [response token] in nats.
        trajectories: with the log-probabilities recorded at sampling.
        level: trajectory for one logit a response; token and occupancy for one a prefix.

    Returns:
        [trajectory] or [response token].
    """
    behavior = trajectories.behavior_logprobs[trajectories.action_mask]
    log_ratios = teacher_logprobs.astype(np.float64) - behavior
    cuts = np.cumsum(trajectories.response_lengths)[:-1]
    prefixes = [np.cumsum(part) for part in np.split(log_ratios, cuts)]
    kept = [part[-1:] for part in prefixes] if level == "trajectory" else prefixes
    return np.concatenate(kept).astype(np.float32)


class Scorer:
    """Trains the discriminator on each step, then has everything scored."""

    def __init__(self, judges: Judges, data: Data, level: Level, shared_folder: Path) -> None:
        """Bind the fleets.

        Args:
            judges: who scores.
            data: the demonstrations.
            level: on which the expert is matched.
            shared_folder: where the training worker leaves its weights for the others.
        """
        self.discriminator, self._teacher, self._rewards = judges
        self._data, self._level = data, level
        self._shared_folder = shared_folder
        self._num_updates = 0

    async def update(self, trajectories: Trajectories) -> dict[str, float]:
        """Train the discriminator on fresh rollouts and their prompts' demonstrations."""
        if self.discriminator is None:
            return {}
        began = time.monotonic()
        rows = trajectories.prompt_ids[group_starts(trajectories)]
        metrics: dict[str, float] = await self.discriminator.request(
            "update",
            trajectories,
            self._data.demonstrations(rows),
            self._held_out(rows),
            lead_only=True,
        )
        if self.discriminator.wanted > 1:
            await self.share_weights()
        return metrics | {"time/discriminator_s": time.monotonic() - began}

    def _held_out(self, rows: NDArray[np.int64]) -> Trajectories:
        """As many demonstrations, never trained on: others for other rows, and the same again."""
        known = self._data.held_out_rows
        if not len(known):
            return EMPTY
        chosen = np.random.default_rng(rows.tolist()).choice(
            known, size=min(len(rows), len(known)), replace=False
        )
        return self._data.demonstrations(chosen)

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
        scores = await self._expert_scores(trajectories)
        total = np.zeros(len(trajectories), np.float32)
        metrics = dict(scores.metrics)
        expert = [self._data.texts(int(row))[1] for row in trajectories.prompt_ids]
        for name, source in self._rewards.items():
            values = await spread(source.fleet, "score", trajectories, expert)
            total += np.float32(source.weight) * values
            metrics[f"reward/{name}"] = float(values.mean())
        metrics["time/scoring_s"] = time.monotonic() - began
        return scores._replace(rewards=total, metrics=metrics)

    async def _expert_scores(self, trajectories: Trajectories) -> Scores:
        """What discriminator or teacher says, the rewards still 0."""
        zeros = np.zeros(len(trajectories), np.float32)
        if self.discriminator is not None:
            logits = await spread(self.discriminator, "score", trajectories)
            return Scores(logits, zeros, {})
        if self._teacher is None:
            return Scores(zeros, zeros, {})
        if self._level == "state":
            states = await spread(self._teacher, "states", trajectories)
            return Scores(zeros, zeros, {}, states)
        logprobs = await spread(self._teacher, "logprobs", trajectories)
        reverse_kl = -exact_logits(logprobs, trajectories, "trajectory").mean()
        logits = exact_logits(logprobs, trajectories, self._level)
        return Scores(logits, zeros, {"teacher/reverse_kl": float(reverse_kl)})
