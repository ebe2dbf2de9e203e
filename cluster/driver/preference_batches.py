"""Preferences and demonstrations on which the on-policy stage trains in addition to its rollouts.

The number of a step determines its rows, so there is nothing to save and a resumed run uses the
same rows. Each epoch contains every row once.
"""

import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from actors.config.preferences import TAKE_TIES
from actors.messages import AuxiliaryBatch
from alignment.data.dataset_protocols import ComparisonData, Data
from alignment.mdp.ranked_responses import NO_COMPARISONS, RankedResponses
from alignment.mdp.trajectories import EMPTY, Trajectories, concatenate, group_starts, pack
from cluster.config.run_config import RunConfig


class PreferenceBatches:
    """Builds the auxiliary batch of each step, and the comparisons for the discriminator."""

    def __init__(self, config: RunConfig, data: Data, comparisons: ComparisonData | None) -> None:
        """Bind the demonstrations, and the comparisons if the job has some."""
        self._config = config.preferences
        self._has_demonstrations = config.demonstrations_weight > 0.0
        self._rows_per_step = config.objective.prompts_per_step
        self._data, self._comparisons = data, comparisons

    def auxiliary_batch(
        self,
        index: int,
        rollouts: Trajectories = EMPTY,
        rewards: NDArray[np.float32] | None = None,
    ) -> AuxiliaryBatch | None:
        """Return the auxiliary batch of a step, for all ranks; None if the job has none.

        Args:
            rollouts: of the step. An objective without preference data compares them with one
                another, or with demonstrations.
            rewards: [trajectory] of the rollouts.
        """
        if self._config is None:
            return self._only_demonstrations(index) if self._has_demonstrations else None
        for_policy = self._config.teaches == "policy"
        if self._config.is_self_play:
            ranked = self._self_play(rollouts)
        elif self._config.ranks_rollouts:
            assert rewards is not None
            ranked = ranked_by_reward(rollouts, rewards, self._config.objective)
        else:
            ranked = self._comparisons_of_step(index) if for_policy else NO_COMPARISONS
        has_baseline = for_policy and self._config.objective == "kahneman_tversky"
        others = mismatched(ranked.trajectories) if has_baseline and len(ranked) > 1 else EMPTY
        demonstrations = self._demonstrations(index)
        return AuxiliaryBatch(
            comparisons=ranked,
            num_comparisons=len(ranked),
            num_compared=len(ranked.ranks),
            demonstrations=demonstrations,
            num_demonstrations=len(demonstrations),
            num_demonstration_tokens=int(demonstrations.response_lengths.sum()),
            mismatched=others,
            num_mismatched=len(others),
            renews_reference=self._config.is_self_play and self._begins_epoch(index),
        )

    def _only_demonstrations(self, index: int) -> AuxiliaryBatch:
        """Return the auxiliary batch of a job without preferences."""
        demonstrations = self._demonstrations(index)
        return AuxiliaryBatch(
            comparisons=NO_COMPARISONS,
            num_comparisons=0,
            num_compared=0,
            demonstrations=demonstrations,
            num_demonstrations=len(demonstrations),
            num_demonstration_tokens=int(demonstrations.response_lengths.sum()),
            mismatched=EMPTY,
            num_mismatched=0,
        )

    def _demonstrations(self, index: int) -> Trajectories:
        """Return the demonstrations of a step, none if they have no weight in the loss."""
        if not self._has_demonstrations:
            return EMPTY
        return self._data.demonstrations(self._rows(self._data.row_of_draw, index))

    def for_discriminator(self, index: int) -> RankedResponses | None:
        """Return the comparisons of a discriminator update, if it is trained on preferences.

        Args:
            index: of the update, counted from the start of the warm-up.
        """
        if self._config is None or self._config.teaches != "discriminator":
            return None
        return self._comparisons_of_step(index)

    def _comparisons_of_step(self, index: int) -> RankedResponses:
        """Return the comparisons of a step, drawn from the preference data."""
        assert self._comparisons
        return self._comparisons.select(self._rows(self._comparisons.row_of_draw, index))

    def _self_play(self, rollouts: Trajectories) -> RankedResponses:
        """Return each prompt's demonstration, of rank 0, with its rollouts, of rank 1."""
        bounds = np.append(group_starts(rollouts), len(rollouts))
        rows = rollouts.prompt_ids[bounds[:-1]]
        demonstrations = self._data.demonstrations(rows)
        parts, ranks = [], []
        for number, (begin, end) in enumerate(itertools.pairwise(bounds)):
            parts += [demonstrations.select([number]), rollouts.select(range(begin, end))]
            ranks += [0.0] + [1.0] * int(end - begin)
        return RankedResponses(concatenate(parts), np.asarray(ranks, np.float32))

    def _rows(self, row_of_draw: Callable[[int], int], index: int) -> NDArray[np.int64]:
        first = index * self._rows_per_step
        return np.asarray([row_of_draw(first + i) for i in range(self._rows_per_step)], np.int64)

    def _begins_epoch(self, index: int) -> bool:
        """Whether an epoch of the demonstrations starts in this step or right before it."""
        epoch = len(self._data.train_rows)
        return index == 0 or (index * self._rows_per_step) % epoch < self._rows_per_step


def ranked_by_reward(
    rollouts: Trajectories, rewards: NDArray[np.float32], objective: str
) -> RankedResponses:
    """Compare the responses of each prompt by their rewards.

    The response with the highest reward is preferred to the one with the lowest; plackett_luce
    ranks all responses. Of responses with equal rewards only the first is used. A prompt whose
    responses all have equal rewards is left out, unless the objective is trained on ties.

    Args:
        rewards: [trajectory] of the rollouts.
    """
    parts: list[Trajectories] = []
    ranks: list[float] = []
    for begin, end in itertools.pairwise(np.append(group_starts(rollouts), len(rollouts))):
        _, first = np.unique(-rewards[begin:end], return_index=True)
        is_tie = len(first) == 1
        if is_tie and (objective not in TAKE_TIES or end - begin == 1):
            continue
        chosen = first if objective == "plackett_luce" else first[[0, -1]]
        chosen = np.arange(2) if is_tie else chosen
        group = rollouts.select(begin + chosen)
        parts.append(group.numbered(np.full(len(chosen), len(parts), np.int64)))
        ranks += [0.0, 0.0] if is_tie else range(len(chosen))
    return RankedResponses(concatenate(parts), np.asarray(ranks, np.float32))


def mismatched(comparisons: Trajectories) -> Trajectories:
    """Return the prompt of each comparison with the best response of the next comparison.

    These responses are unrelated to their prompts, so the policy's mean log-ratio on them measures
    how far it is from its reference, independently of the preference labels.
    """
    first = group_starts(comparisons)
    prompts = [comparisons.prompt(int(row)).tolist() for row in first]
    responses = [comparisons.response(int(row)).tolist() for row in np.roll(first, -1)]
    pairs = enumerate(zip(prompts, responses, strict=True))
    return concatenate([pack(*pair, prompt_id=number) for number, pair in pairs])
