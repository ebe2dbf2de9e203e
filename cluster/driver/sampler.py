"""The online environment: prompts go out to the rollout fleet, groups of trajectories come back.

Whole episodes of the token MDP are played by the workers; here is decided only which prompt is
drawn next and whether it may leave yet. Steps are filled in the order in which prompts left: what
overtakes waits, for a late group that slipped to a later step would be staler than allowed.
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
    """Numbers the draws of a run and says which prompt each one is.

    On resuming, draws that were handed out but never trained on come again, before any new one.
    """

    def __init__(
        self, row_of: Callable[[int], int], next_number: int, again: Sequence[int]
    ) -> None:
        self._row_of, self.next_number, self._again = row_of, next_number, list(again)

    def take(self, count: int) -> list[PromptDraw]:
        """Draw this many prompts."""
        numbers = self._again[:count]
        self._again = self._again[count:]
        new = count - len(numbers)
        numbers += range(self.next_number, self.next_number + new)
        self.next_number += new
        return [PromptDraw(number, self._row_of(number)) for number in numbers]

    def unfinished(self) -> list[int]:
        """Return the numbers that wait to be drawn again."""
        return list(self._again)


class SampledStep(NamedTuple):
    """The trajectories of one step."""

    draws: list[PromptDraw]
    trajectories: Trajectories
    sampling_s: float
    """Longest time a worker took for one of the requests."""


class Sampler:
    """Keeps the rollout fleet busy, as far as the ledger allows, and fills steps in order."""

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
        """Begin with nothing handed out.

        Args:
            data: the prompts, and the demonstrations that stand in for rollouts where the
                objective wants some.
            objective: how many prompts a step has, responses a prompt, and steps of staleness.
            num_steps: how many steps will be asked for.
            max_sequences: responses that one worker extends at once.
        """
        self._prompts_per_step, self._group_size = objective.prompts_per_step, objective.group_size
        self._on_policy_prompts = round(objective.on_policy_fraction * objective.prompts_per_step)
        self.ledger = Ledger(self._prompts_per_step, objective.max_staleness_steps, num_steps)
        self._fleet, self._draws, self._data = fleet, draws, data
        self._max_sequences, self._seed = max_sequences, seed
        self._order: list[int] = []
        self._ready: dict[int, tuple[PromptDraw, Trajectories, float]] = {}
        self._shown: dict[int, tuple[PromptDraw, Trajectories, float]] = {}
        self._requests: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._changed = asyncio.Event()
        self.advanced_at = time.monotonic()
        """When prompts last left, on the monotonic clock."""

    def advance(self, steps_done: int) -> None:
        """Hand out what is allowed after this many steps."""
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
            draws = self._demonstrated(draws)
            if not draws:
                continue
            self._order.extend(draw.number for draw in draws)
            request = asyncio.ensure_future(self._sample(draws))
            self._requests.add(request)
            request.add_done_callback(self._ended)

    def _ended(self, request: asyncio.Task[None]) -> None:
        self._requests.discard(request)
        if not request.cancelled():
            self._failure = self._failure or request.exception()
        self._changed.set()

    def _demonstrated(self, draws: list[PromptDraw]) -> list[PromptDraw]:
        """Answer by demonstrations as many of each step's draws as shall be; return the others."""
        others = []
        for draw in draws:
            if draw.number % self._prompts_per_step < self._on_policy_prompts:
                others.append(draw)
                continue
            shown = self._data.demonstrations(np.asarray([draw.prompt_id]))
            self.ledger.move([draw], DrawState.SAMPLED)
            self._shown[draw.number] = (draw, shown, 0.0)
        self._changed.set()
        return others

    def _has_step(self) -> bool:
        """Whether there are as many of each kind as a step has."""
        num_shown = self._prompts_per_step - self._on_policy_prompts
        oldest = self._order[: self._on_policy_prompts]
        is_full = len(oldest) == self._on_policy_prompts
        has_rollouts = is_full and all(number in self._ready for number in oldest)
        return has_rollouts and len(self._shown) >= num_shown

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
        """Wait for a whole step's trajectories. Raises what a request raised."""
        while not self._has_step():
            if self._failure:
                raise self._failure
            self._changed.clear()
            await self._changed.wait()
        # Demonstrations are there at once, and would else crowd out rollouts on their way.
        numbers = self._order[: self._on_policy_prompts]
        del self._order[: self._on_policy_prompts]
        parts = [self._ready.pop(number) for number in numbers]
        for number in sorted(self._shown)[: self._prompts_per_step - self._on_policy_prompts]:
            parts.append(self._shown.pop(number))
        return SampledStep(
            [draw for draw, _, _ in parts],
            concatenate([group for _, group, _ in parts]),
            max(sampling_s for _, _, sampling_s in parts),
        )

    def trained(self, draws: Sequence[PromptDraw]) -> None:
        """Note that a step was learned."""
        self.ledger.move(draws, DrawState.TRAINED)

    def close(self) -> None:
        """Forget what is under way."""
        for request in list(self._requests):
            request.cancel()
