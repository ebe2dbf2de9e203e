"""Hands out prompts to the rollout fleet and collects the groups of trajectories of each step.

The workers sample whole episodes of the token MDP; the sampler decides which prompt is drawn next
and when it is handed out. Groups enter steps in the order in which their prompts were handed out: a
group that came back late and slipped into a later step would be staler than allowed.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from actors.config.objective import ObjectiveConfig
from alignment.data.dataset_protocols import Data
from alignment.mdp.trajectories import Trajectories, concatenate
from cluster.driver.prompt_ledger import DrawState, Ledger, PromptDraw
from cluster.fleet.fleet import Fleet
from cluster.fleet.rollout_requests import (
    prompts_per_request,
    request_rollouts,
    rollout_request,
)


class Draws:
    """Numbers the draws of a run; the number of a draw determines its prompt.

    A resumed run first repeats the draws that were handed out but not trained on.
    """

    def __init__(
        self, row_of: Callable[[int], int], next_number: int, unfinished: Sequence[int]
    ) -> None:
        self._row_of, self.next_number, self._unfinished = row_of, next_number, list(unfinished)

    def take(self, count: int) -> list[PromptDraw]:
        """Return the next draws."""
        numbers = self._unfinished[:count]
        self._unfinished = self._unfinished[count:]
        new = count - len(numbers)
        numbers += range(self.next_number, self.next_number + new)
        self.next_number += new
        return [PromptDraw(number, self._row_of(number)) for number in numbers]

    def unfinished(self) -> list[int]:
        """Return the numbers of the draws that are still to be repeated."""
        return list(self._unfinished)


class SampledStep(NamedTuple):
    """The trajectories of one step."""

    draws: list[PromptDraw]
    trajectories: Trajectories
    sampling_s: float
    """Longest time that a worker took for one of the requests."""


class Sampler:
    """Hands out prompts as far as the ledger allows, and returns steps in order."""

    def __init__(
        self,
        fleet: Fleet,
        draws: Draws,
        data: Data,
        objective: ObjectiveConfig,
        *,
        num_steps: int,
        max_sequences: int,
        seed: int,
    ) -> None:
        """Start without any prompt handed out.

        Args:
            data: the prompts, and the demonstrations that replace rollouts if on_policy_fraction is
                less than 1.
        """
        self._prompts_per_step, self._group_size = objective.prompts_per_step, objective.group_size
        self._on_policy_prompts = round(objective.on_policy_fraction * objective.prompts_per_step)
        self.ledger = Ledger(self._prompts_per_step, objective.max_staleness_steps, num_steps)
        self._fleet, self._draws, self._data = fleet, draws, data
        self._max_sequences, self._seed = max_sequences, seed
        self._order: list[int] = []
        self._ready: dict[int, tuple[PromptDraw, Trajectories, float]] = {}
        self._demonstrations: dict[int, tuple[PromptDraw, Trajectories, float]] = {}
        self._requests: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._changed = asyncio.Event()
        self.advanced_at = time.monotonic()
        """Time at which prompts were last handed out, on the monotonic clock."""

    def advance(self, steps_done: int) -> None:
        """Hand out the prompts that the ledger allows after this many steps."""
        size = prompts_per_request(
            self._prompts_per_step,
            group_size=self._group_size,
            max_sequences=self._max_sequences,
            num_workers=self._fleet.target_size,
        )
        allowed = self.ledger.num_allowed(steps_done)
        if allowed:
            self.advanced_at = time.monotonic()
        while allowed > 0:
            draws = self._draws.take(min(size, allowed))
            allowed -= len(draws)
            self.ledger.hand_out(draws)
            draws = self._hand_out_demonstrations(draws)
            if not draws:
                continue
            self._order.extend(draw.number for draw in draws)
            request = asyncio.ensure_future(self._sample(draws))
            self._requests.add(request)
            request.add_done_callback(self._end_request)

    def _end_request(self, request: asyncio.Task[None]) -> None:
        self._requests.discard(request)
        if not request.cancelled():
            self._failure = self._failure or request.exception()
        self._changed.set()

    def _hand_out_demonstrations(self, draws: list[PromptDraw]) -> list[PromptDraw]:
        """Give the step's share of draws their demonstrations; return those to be sampled."""
        others = []
        for draw in draws:
            if draw.number % self._prompts_per_step < self._on_policy_prompts:
                others.append(draw)
                continue
            demonstration = self._data.demonstrations(np.asarray([draw.prompt_id]))
            self.ledger.move([draw], DrawState.SAMPLED)
            self._demonstrations[draw.number] = (draw, demonstration, 0.0)
        self._changed.set()
        return others

    def _has_step(self) -> bool:
        """Whether the oldest step has all its rollouts and all its demonstrations."""
        num_demonstrations = self._prompts_per_step - self._on_policy_prompts
        oldest = self._order[: self._on_policy_prompts]
        is_full = len(oldest) == self._on_policy_prompts
        has_rollouts = is_full and all(number in self._ready for number in oldest)
        return has_rollouts and len(self._demonstrations) >= num_demonstrations

    async def _sample(self, draws: list[PromptDraw]) -> None:
        request = rollout_request(
            self._data,
            [draw.prompt_id for draw in draws],
            group_size=self._group_size,
            run_seed=self._seed,
            number=draws[0].number,
        )
        result = await request_rollouts(self._fleet, request)
        self.ledger.move(draws, DrawState.SAMPLED)
        for index, draw in enumerate(draws):
            first = index * self._group_size
            group = result.trajectories.select(range(first, first + self._group_size))
            self._ready[draw.number] = (draw, group, result.sampling_s)

    async def step(self) -> SampledStep:
        """Wait for all trajectories of the next step. Raises the error of a failed request."""
        while not self._has_step():
            if self._failure:
                raise self._failure
            self._changed.clear()
            await self._changed.wait()
        numbers = self._order[: self._on_policy_prompts]
        del self._order[: self._on_policy_prompts]
        parts = [self._ready.pop(number) for number in numbers]
        # Only the step's share: demonstrations of later steps are ready before their rollouts.
        num_demonstrations = self._prompts_per_step - self._on_policy_prompts
        for number in sorted(self._demonstrations)[:num_demonstrations]:
            parts.append(self._demonstrations.pop(number))
        return SampledStep(
            [draw for draw, _, _ in parts],
            concatenate([group for _, group, _ in parts]),
            max(sampling_s for _, _, sampling_s in parts),
        )

    def mark_trained(self, draws: Sequence[PromptDraw]) -> None:
        """Note in the ledger that a step was trained on."""
        self.ledger.move(draws, DrawState.TRAINED)

    def close(self) -> None:
        """Cancel the requests that are not done."""
        for request in list(self._requests):
            request.cancel()
