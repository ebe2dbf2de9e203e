"""Scores of a step's trajectories: logits, high for the expert, and the sum of the rewards.

The logits are a discriminator's estimates. If the expert is a model they are exact: the teacher's
log-probabilities minus those recorded at sampling.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.config.choices import Level
from actors.errors import RewardError
from alignment.data.dataset_protocols import Data
from alignment.mdp.ranked_responses import RankedResponses
from alignment.mdp.trajectories import EMPTY, Trajectories, group_starts
from cluster.fleet.fleet import Fleet
from cluster.fleet.score_requests import Scorers, request_rewards, request_scores


class Scores(NamedTuple):
    """The scores of a step's trajectories."""

    discriminator_logits: NDArray[np.float32]
    """[trajectory] or [response token], high for the expert; see actors.messages.OnPolicyStep."""
    rewards: NDArray[np.float32]
    """[trajectory] weighted sum of the reward sources, 0 without any; NaN where one failed."""
    metrics: dict[str, float]
    teacher_states: NDArray[np.float32] | None = None
    """[response token, hidden] at level state."""
    failures: Mapping[int, str] = {}
    """The error of each prompt without a reward; these prompts are to be dropped."""

    def select(self, trajectories: Trajectories, rows: NDArray[np.int64]) -> "Scores":
        """Return the scores of these rows; the metrics stay those of all trajectories."""
        logits, states = self.discriminator_logits, self.teacher_states
        return self._replace(
            discriminator_logits=trajectories.select_values(logits, rows),
            rewards=self.rewards[rows],
            teacher_states=None if states is None else trajectories.select_values(states, rows),
        )


def exact_logits(
    teacher_logprobs: NDArray[np.float32], trajectories: Trajectories, level: Level
) -> NDArray[np.float32]:
    """Return log(teacher / sampling policy) of responses, or of every prefix of them.

    Args:
        teacher_logprobs: [response token] in nats.
        level: trajectory for one logit per response; token and occupancy for one per prefix.

    Returns:
        [trajectory] or [response token].
    """
    behavior = trajectories.behavior_logprobs[trajectories.action_mask]
    log_ratios = teacher_logprobs.astype(np.float64) - behavior
    cuts = np.cumsum(trajectories.response_lengths)[:-1]
    prefixes = [np.cumsum(part) for part in np.split(log_ratios, cuts)]
    kept = [part[-1:] for part in prefixes] if level == "trajectory" else prefixes
    return np.concatenate(kept).astype(np.float32)


def within_prompt_deviation(rewards: NDArray[np.float32], prompt_ids: NDArray[np.int64]) -> float:
    """Return the standard deviation of rewards of responses to one prompt, pooled over the prompts.

    Prompts differ in how well they can be answered, which advantages do not see: these compare the
    responses to one prompt. Rewards that failed (NaN) are left out.

    Args:
        rewards: [trajectory]
        prompt_ids: [trajectory] equal ids share a prompt.

    Returns:
        The root of the sum of squared distances from the prompt's mean, over the number of rewards
        less the number of prompts. If no prompt has two rewards, the standard deviation of all.
    """
    is_known = np.isfinite(rewards)
    known = rewards[is_known].astype(np.float64)
    _, groups = np.unique(prompt_ids[is_known], return_inverse=True)
    sizes = np.bincount(groups)
    if len(known) == len(sizes):
        return float(known.std()) if len(known) else 0.0
    means = np.bincount(groups, weights=known) / sizes
    squares = np.square(known - means[groups]).sum()
    return float(np.sqrt(squares / (len(known) - len(sizes))))


class Scorer:
    """Scores each step with every source, and trains the discriminator on it."""

    def __init__(self, scorers: Scorers, data: Data, level: Level, shared_folder: Path) -> None:
        """Bind the fleets.

        Args:
            shared_folder: where the discriminator that is trained saves its weights for the others.
        """
        self.discriminator, self._teacher, self._rewards = scorers
        self._data, self._level = data, level
        self._shared_folder = shared_folder
        self._num_updates = 0
        self.scales: dict[str, float] = {}
        """The divisor of each reward source by name; 1 if it is not here."""

    @property
    def has_scales(self) -> bool:
        """Whether reward sources are combined with a divergence, so that their units matter."""
        has_divergence = self.discriminator is not None or self._teacher is not None
        return has_divergence and len(self._rewards) > 0

    def fleets(self) -> list[Fleet]:
        """Return the fleets that score."""
        scorers = [fleet for fleet in (self.discriminator, self._teacher) if fleet]
        return [*scorers, *(source.fleet for source in self._rewards.values())]

    async def measure_scales(self, responses: Trajectories) -> dict[str, float]:
        """Measure and set the scale of each reward source that is combined with a divergence.

        The scale is the within_prompt_deviation of the source's rewards of the policy's responses
        to held-out prompts, before the on-policy stage; 1 if the rewards of each prompt are equal.
        It is measured once, not per batch: a scale that changes with the batch would change the
        objective at every step. Without a divergence there are no scales.

        Args:
            responses: of the policy, a group for each prompt.
        """
        expert = [self._data.texts(int(row))[1] for row in responses.prompt_ids]
        responses = self._data.with_context(responses)
        self.scales = {}
        for name, source in self._rewards.items() if self.has_scales else ():
            values, _ = await request_rewards(source, responses, expert)
            deviation = within_prompt_deviation(values, responses.prompt_ids)
            self.scales[name] = deviation if deviation > 0.0 else 1.0
        return self.scales

    async def update(
        self,
        trajectories: Trajectories,
        ranked: RankedResponses | None = None,
        *,
        num_epochs: int = 1,
    ) -> dict[str, float]:
        """Train the discriminator on rollouts, demonstrations of their prompts, and preferences.

        Args:
            num_epochs: passes over the samples so far; see actors.messages.DiscriminatorWorker.
        """
        if self.discriminator is None:
            return {}
        began = time.monotonic()
        rows = trajectories.prompt_ids[group_starts(trajectories)]
        metrics: dict[str, float] = await self.discriminator.request(
            "update",
            self._data.with_context(trajectories),
            self._data.with_context(self._data.demonstrations(rows)),
            self._data.with_context(self._held_out_demonstrations(rows)),
            ranked,
            num_epochs,
            lead_only=True,
        )
        if self.discriminator.target_size > 1:
            await self.share_weights()
        return metrics | {"time/discriminator_s": time.monotonic() - began}

    def _held_out_demonstrations(self, rows: NDArray[np.int64]) -> Trajectories:
        """Return as many held-out demonstrations as rows, at random with the rows as the seed."""
        held_out = self._data.held_out_rows
        if not len(held_out):
            return EMPTY
        chosen = np.random.default_rng(rows.tolist()).choice(
            held_out, size=min(len(rows), len(held_out)), replace=False
        )
        return self._data.demonstrations(chosen)

    async def share_weights(self) -> None:
        """Announce the weights of the discriminator that is trained to those that only score."""
        if self.discriminator is None:
            return
        self._num_updates += 1
        folder = self._shared_folder / f"update-{self._num_updates % 2}"
        await self.discriminator.request("save", folder, lead_only=True)
        self.discriminator.announce_from_lead((self._num_updates, folder))

    async def score(self, trajectories: Trajectories) -> Scores:
        """Score trajectories with the discriminator or the teacher, and with every reward source.

        Raises:
            RewardError: if a reward failed and failure_policy decides to stop, or if no prompt has
                all its rewards.
        """
        began = time.monotonic()
        trajectories = self._data.with_context(trajectories)
        scores = await self._expert_scores(trajectories)
        total = np.zeros(len(trajectories), np.float32)
        metrics, failures = dict(scores.metrics), dict[int, str]()
        expert = [self._data.texts(int(row))[1] for row in trajectories.prompt_ids]
        for name, source in self._rewards.items():
            values, failed = await request_rewards(source, trajectories, expert)
            total += np.float32(source.weight / self.scales.get(name, 1.0)) * values
            metrics[f"reward/{name}"] = float(np.nanmean(values))
            if source.on_error == "drop":
                metrics[f"reward/{name}_errors"] = float(len(failed))
            failures |= failed
        if failures and set(trajectories.prompt_ids.tolist()) <= set(failures):
            first = next(iter(failures.values()))
            raise RewardError(
                f"no prompt of the step has all its rewards; the first error: {first}"
            )
        metrics["time/scoring_s"] = time.monotonic() - began
        return scores._replace(rewards=total, metrics=metrics, failures=failures)

    async def _expert_scores(self, trajectories: Trajectories) -> Scores:
        """Return the scores of the discriminator or the teacher, with rewards of 0."""
        zeros = np.zeros(len(trajectories), np.float32)
        if self.discriminator is not None:
            logits = await request_scores(self.discriminator, "score", trajectories)
            return Scores(logits, zeros, {})
        if self._teacher is None:
            return Scores(zeros, zeros, {})
        if self._level == "state":
            states = await request_scores(self._teacher, "states", trajectories)
            return Scores(zeros, zeros, {}, states)
        logprobs = await request_scores(self._teacher, "logprobs", trajectories)
        reverse_kl = -exact_logits(logprobs, trajectories, "trajectory").mean()
        logits = exact_logits(logprobs, trajectories, self._level)
        return Scores(logits, zeros, {"teacher/reverse_kl": float(reverse_kl)})
