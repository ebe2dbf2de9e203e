"""What stage 2 learns beside its rollouts: preferences, and demonstrations to clone.

Which rows a step takes follows from its number alone, so there is nothing to save and a resumed run
goes on with the same ones. Over an epoch every row comes once.
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
    """Chooses the rows of each step."""

    def __init__(self, config: RunConfig, data: Data, comparisons: ComparisonData | None) -> None:
        """Bind the data.

        Args:
            comparisons: its preferences; None where it is given none.
        """
        self._config = config.preferences
        self._num_a_step = config.objective.prompts_per_step
        self._data, self._comparisons = data, comparisons

    def auxiliary(
        self,
        index: int,
        rollouts: Trajectories = EMPTY,
        rewards: NDArray[np.float32] | None = None,
    ) -> AuxiliaryBatch | None:
        """Return what a step learns beside its rollouts.

        Args:
            index: of the step in stage 2.
            rollouts: of the step, which are compared with one another or with demonstrations where
                the job gives no preferences.
            rewards: [trajectory] of the rollouts.

        Returns:
            The whole step's, for all ranks; None if there is nothing.
        """
        if self._config is None:
            return None
        is_policys = self._config.teaches == "policy"
        if self._config.is_self_play:
            ranked = self._self_play(rollouts)
        elif self._config.ranks_rollouts:
            assert rewards is not None
            ranked = ranked_by_reward(rollouts, rewards, self._config.objective)
        else:
            ranked = self._drawn(index) if is_policys else NO_COMPARISONS
        has_baseline = is_policys and self._config.objective == "kahneman_tversky"
        others = mismatched(ranked.trajectories) if has_baseline and len(ranked) > 1 else EMPTY
        cloned = EMPTY
        if self._config.parameters.sft_weight:
            cloned = self._data.demonstrations(self._rows(self._data.row_of_draw, index))
        return AuxiliaryBatch(
            comparisons=ranked,
            num_comparisons=len(ranked),
            num_compared=len(ranked.ranks),
            demonstrations=cloned,
            num_demonstrations=len(cloned),
            num_demonstration_tokens=int(cloned.response_lengths.sum()),
            mismatched=others,
            num_mismatched=len(others),
            renews_reference=self._config.is_self_play and self._begins_epoch(index),
        )

    def for_discriminator(self, index: int) -> RankedResponses | None:
        """Return what the discriminator learns beside an update, if it learns preferences.

        Args:
            index: of the update, those of its warm-up included.
        """
        if self._config is None or self._config.teaches != "discriminator":
            return None
        return self._drawn(index)

    def _drawn(self, index: int) -> RankedResponses:
        """Return the comparisons of a step."""
        assert self._comparisons
        return self._comparisons.select(self._rows(self._comparisons.row_of_draw, index))

    def _self_play(self, rollouts: Trajectories) -> RankedResponses:
        """Each prompt's demonstration, of rank 0, before the rollouts to it, of rank 1."""
        bounds = np.append(group_starts(rollouts), len(rollouts))
        rows = rollouts.prompt_ids[bounds[:-1]]
        demonstrations = self._data.demonstrations(rows)
        parts, ranks = [], []
        for number, (begin, end) in enumerate(itertools.pairwise(bounds)):
            parts += [demonstrations.select([number]), rollouts.select(range(begin, end))]
            ranks += [0.0] + [1.0] * int(end - begin)
        return RankedResponses(concatenate(parts), np.asarray(ranks, np.float32))

    def _rows(self, row_of_draw: Callable[[int], int], index: int) -> NDArray[np.int64]:
        first = index * self._num_a_step
        return np.asarray([row_of_draw(first + i) for i in range(self._num_a_step)], np.int64)

    def _begins_epoch(self, index: int) -> bool:
        """Whether the demonstrations begin anew in or right before this step."""
        epoch = len(self._data.train_rows)
        return index == 0 or (index * self._num_a_step) % epoch < self._num_a_step


def ranked_by_reward(
    rollouts: Trajectories, rewards: NDArray[np.float32], objective: str
) -> RankedResponses:
    """Compare the responses of each prompt by their rewards.

    The best is preferred to the worst, or with plackett_luce all are ranked; of equally good ones
    the first stands for all. A prompt whose responses are all equally good says nothing, except to
    an objective that learns from ties.

    Args:
        rewards: [trajectory] of them.

    Returns:
        The comparisons.
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
    """Return every comparison's prompt with the best response of the next one.

    Such responses have nothing to do with their prompts, so the policy's mean log-ratio on them
    tells how far it is from its reference, whatever the verdicts on its own responses are.
    """
    first = group_starts(comparisons)
    prompts = [comparisons.prompt(int(row)).tolist() for row in first]
    responses = [comparisons.response(int(row)).tolist() for row in np.roll(first, -1)]
    pairs = enumerate(zip(prompts, responses, strict=True))
    return concatenate([pack(*pair, prompt_id=number) for number, pair in pairs])
