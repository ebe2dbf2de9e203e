"""The demonstrations that are kept for measuring, and the policy's answers to their prompts."""

import asyncio

import numpy as np

from actors.messages import RolloutRequest, RolloutResult
from alignment.data.dataset_protocols import Data
from alignment.data.splits import held_out_sample
from alignment.mdp.trajectories import Trajectories, concatenate
from cluster.fleet.fleet import Fleet

EVALUATION_SEED = 2**31 - 1  # no draw of a run has it


class Evaluator:
    """A sample of the held-out rows, the same one every time, so that measurements compare.

    It is drawn at random, for data is often sorted, by source or by topic.
    """

    def __init__(self, rollout: Fleet, data: Data, num_prompts: int, max_sequences: int) -> None:
        self._rollout, self._data = rollout, data
        self._rows = held_out_sample(data.held_out_rows, num_prompts)
        self._max_sequences = max_sequences

    def batch(self) -> Trajectories:
        """Return the expert's trajectories."""
        return self._data.demonstrations(self._rows)

    async def answers(self) -> Trajectories:
        """Have the policy answer every prompt once, at the run's temperature."""
        cuts = range(self._max_sequences, len(self._rows), self._max_sequences)
        requests = [
            RolloutRequest(
                prompt_ids=tuple(int(row) for row in part),
                prompts=tuple(self._data.prompt_tokens(int(row)) for row in part),
                group_size=1,
                seed=EVALUATION_SEED,
            )
            for part in np.split(self._rows, list(cuts))
        ]
        results: list[RolloutResult] = await asyncio.gather(
            *(self._rollout.request("rollout", request) for request in requests)
        )
        return concatenate([result.trajectories for result in results])
