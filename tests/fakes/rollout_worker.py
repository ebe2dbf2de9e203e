"""A rollout worker whose policy is a table: one distribution over tokens for each version."""

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np

from actors.messages import Published, RolloutRequest, RolloutResult, Synced
from actors.rollout.engine import EngineFailedError, check_prompt
from actors.weights.store import WeightStore
from alignment.mdp.trajectories import FinishReason, PolicyVersion, concatenate, pack


async def at_once() -> None:
    """Return without a delay."""


class FakeRolloutWorker:
    """Samples each token independently from the distribution of the version that it holds.

    It lets the event loop run before every token, so weights can change in the middle of a
    response, as they can in an engine.
    """

    def __init__(
        self,
        *,
        num_tokens: int = 16,
        end_token_ids: tuple[int, ...] = (2,),
        max_prompt_tokens: int = 40,
        max_response_tokens: int = 12,
        store: WeightStore | None = None,
    ) -> None:
        """Hold no weights yet; with a store, fetch them from there and check their bytes."""
        self.num_tokens = num_tokens
        self.end_token_ids = end_token_ids
        self.max_prompt_tokens = max_prompt_tokens
        self.max_response_tokens = max_response_tokens
        self._store = store
        self.version: PolicyVersion | None = None
        self.num_steps = 0
        self._before_next: Callable[[], Awaitable[None]] = at_once

    def fail_next(self, error: Exception) -> None:
        """Raise this error from the next sync or rollout."""

        async def fail() -> None:
            raise error

        self._before_next = fail

    def hang_next(self) -> None:
        """Never return from the next sync or rollout."""

        async def hang() -> None:
            await asyncio.Event().wait()

        self._before_next = hang

    def delay_next(self, delay_s: float) -> None:
        """Wait before the next sync or rollout."""

        async def wait() -> None:
            await asyncio.sleep(delay_s)

        self._before_next = wait

    async def _begin(self) -> None:
        before, self._before_next = self._before_next, at_once
        await before()

    def logprobs(self, version: PolicyVersion) -> np.ndarray:
        """[token] the policy of this version."""
        logits = np.random.default_rng(version).normal(size=self.num_tokens)
        return logits - np.log(np.exp(logits).sum())

    async def sync_weights(self, published: Published) -> Synced:
        await self._begin()
        if self.version is not None and published.version <= self.version:
            return Synced(self.version)
        if self._store is not None:
            self._store.fetch(published)
        self.version = published.version
        return Synced(published.version)

    async def rollout(self, request: RolloutRequest) -> RolloutResult:
        await self._begin()
        for prompt in request.prompts:
            check_prompt(
                prompt, num_tokens=self.num_tokens, max_prompt_tokens=self.max_prompt_tokens
            )
        num_responses = len(request.prompts) * request.group_size
        rng = np.random.default_rng(request.seed)
        greedy = request.temperature == 0.0
        responses = [await self._response(rng, greedy) for _ in range(num_responses)]
        rows = [row for row in range(len(request.prompts)) for _ in range(request.group_size)]
        trajectories = [
            pack(
                request.prompts[row].tolist(),
                tokens,
                prompt_id=request.prompt_ids[row],
                behavior_logprobs=logprobs,
                finish_reason=FinishReason.STOP
                if tokens[-1] in self.end_token_ids
                else FinishReason.LENGTH,
                token_versions=versions,
            )
            for row, (tokens, logprobs, versions) in zip(rows, responses, strict=True)
        ]
        return RolloutResult(concatenate(trajectories), sampling_s=0.001 * num_responses)

    async def _response(
        self, rng: np.random.Generator, greedy: bool = False
    ) -> tuple[list[int], list[float], list[PolicyVersion]]:
        end_tokens = [[token] for token in self.end_token_ids]
        tokens: list[int] = []
        logprobs: list[float] = []
        versions: list[PolicyVersion] = []
        while len(tokens) < self.max_response_tokens and tokens[-1:] not in end_tokens:
            if self.version is None:
                raise EngineFailedError("it was given no published weights yet")
            policy = self.logprobs(self.version)
            drawn = policy.argmax() if greedy else rng.choice(self.num_tokens, p=np.exp(policy))
            tokens.append(int(drawn))
            logprobs.append(float(policy[tokens[-1]]))
            versions.append(self.version)
            self.num_steps += 1
            await asyncio.sleep(0)
        return tokens, logprobs, versions
