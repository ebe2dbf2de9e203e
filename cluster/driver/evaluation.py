"""The held-out demonstrations on which a run is evaluated, and the policy's responses to them."""

import asyncio

from alignment.data.dataset_protocols import Data
from alignment.data.splits import held_out_sample
from alignment.mdp.trajectories import Trajectories, concatenate
from cluster.fleet.fleet import Fleet
from cluster.fleet.rollout_requests import (
    NUM_SEEDS,
    prompts_per_request,
    request_rollouts,
    rollout_request,
)

EVALUATION_SEED = NUM_SEEDS - 1  # every request has it, whatever the run's seed


class Evaluator:
    """A random sample of the held-out rows, always the same one, so that evaluations compare.

    It is random because data are often sorted, by source or by topic.
    """

    def __init__(self, rollout: Fleet, data: Data, num_prompts: int, max_sequences: int) -> None:
        self._rollout, self._data = rollout, data
        self._rows = held_out_sample(data.held_out_rows, num_prompts)
        self._max_sequences = max_sequences

    def demonstrations(self) -> Trajectories:
        """Return the demonstrations of the sample."""
        return self._data.demonstrations(self._rows)

    async def groups(self, group_size: int) -> Trajectories:
        """Sample group_size responses to every group_size-th prompt."""
        return await self._sampled(self._rows[::group_size].tolist(), group_size, None)

    async def responses(self, temperature: float | None = None) -> Trajectories:
        """Sample one response to every prompt on all workers.

        Args:
            temperature: None is the run's.
        """
        return await self._sampled(self._rows.tolist(), 1, temperature)

    async def _sampled(
        self, rows: list[int], group_size: int, temperature: float | None
    ) -> Trajectories:
        size = prompts_per_request(
            len(rows),
            group_size=group_size,
            max_sequences=self._max_sequences,
            num_workers=self._rollout.target_size,
        )
        requests = [
            rollout_request(
                self._data,
                rows[first : first + size],
                group_size=group_size,
                run_seed=0,
                number=EVALUATION_SEED,
                temperature=temperature,
            )
            for first in range(0, len(rows), size)
        ]
        results = await asyncio.gather(
            *(request_rollouts(self._rollout, request) for request in requests)
        )
        return concatenate([result.trajectories for result in results])
