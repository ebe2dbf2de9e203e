"""Classes that Ray starts in another process, which cannot import test files."""

import asyncio
import os
import time
from pathlib import Path

from actors.errors import InvalidInputError
from actors.messages import RolloutResult
from alignment.mdp.trajectories import FinishReason, concatenate, pack

PROMPT_S = 0.25
"""Seconds per prompt."""


class SleepingSampler:
    """A rollout worker that sleeps instead of sampling."""

    def __init__(self, journal):
        self._journal = Path(journal) / str(os.getpid())
        self._version = None

    async def sync_weights(self, published):
        self._version = published.version

    async def rollout(self, request):
        began = time.perf_counter()
        with self._journal.open("a") as file:
            file.writelines(f"{request.seed} {row}\n" for row in request.prompt_ids)
        await asyncio.sleep(PROMPT_S * len(request.prompts))
        responses = [
            pack(
                prompt.tolist(),
                [4, 2],
                prompt_id=row,
                behavior_logprobs=[-1.0, -1.0],
                finish_reason=FinishReason.STOP,
                policy_version=self._version,
            )
            for row, prompt in zip(request.prompt_ids, request.prompts, strict=True)
            for _ in range(request.group_size)
        ]
        return RolloutResult(concatenate(responses), time.perf_counter() - began)


class ScaledDriver:
    """The remote interface of a driver, without a run."""

    def __init__(self):
        self._requested = []

    async def scale(self, target_sizes):
        if "discriminator" in target_sizes:
            raise InvalidInputError("the run is ending, so it cannot be scaled")
        self._requested.append(target_sizes)
        return [f"{kind} scaled from 1 to {number}" for kind, number in target_sizes.items()]

    async def requested(self):
        return self._requested
