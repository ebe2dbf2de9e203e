"""The rollout worker: samples responses from the newest weights that it was given."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Literal

import numpy as np

from actors.config.rollout import RolloutConfig
from actors.errors import WeightMismatchError
from actors.messages import Published, RolloutRequest, RolloutResult
from actors.rollout.engine import InferenceEngine
from actors.weights.store import WeightStore
from alignment.mdp.trajectories import PolicyVersion, concatenate, pack

logger = logging.getLogger(__name__)
CANARY_BOUND_NATS = {"float32": 1e-3, "bfloat16": 0.2}
"""Largest mean difference in nats between engine and learner on the canary, by precision.

On SmolLM2-135M the same weights differ by 8e-6 in float32 and by 0.04 to 0.09 in bfloat16,
which is rounding; 5 % of noise on all weights is 0.7, one projection of one layer set to zero 1.6.
"""
ROUNDING_FACTOR = 3.0
"""Multiple of the learner's own bfloat16 rounding that is accepted where it is more than that.

A text can be hard for bfloat16: on one, healthy weights differed by 0.26 nats in vLLM, by 0.18 in
the learner under autocast and by 0.39 in transformers.
"""


class RolloutWorker:
    """Owns one engine, and samples only from weights that have passed their canary.

    Sampling continues while weights change: each token is marked with the version of the weights
    that it was sampled from.
    """

    def __init__(
        self,
        config: RolloutConfig,
        store: WeightStore,
        make_engine: Callable[[], InferenceEngine],
    ) -> None:
        """Start the engine, in the process that will use it.

        Args:
            make_engine: creates the engine here, because an engine cannot be sent to a process.
        """
        self._dtype = config.dtype
        self._store = store
        self._engine = make_engine()
        self._one_sync_at_a_time = asyncio.Lock()

    async def sync_weights(self, published: Published) -> PolicyVersion:
        """Load these weights, check their canary, and return the version now served.

        A version that is not newer than the one served is ignored.

        Raises:
            FileNotFoundError: newer weights have replaced these in the store.
            WeightMismatchError: checksum, names, shapes or canary do not match. After a failed
                canary nothing is sampled until another sync succeeds; otherwise the old weights
                are still served.
            EngineFailedError: the engine did not load them; nothing is sampled until it does.
        """
        async with self._one_sync_at_a_time:
            served = self._engine.policy_version
            if served is not None and published.version <= served:
                logger.info("ignore weights %s: %s is served", published.version, served)
                return served
            tensors = await asyncio.to_thread(self._store.fetch, published)
            await self._engine.update_weights(tensors, published.version)
            await self._check_canary(published)
            return published.version

    async def _check_canary(self, published: Published) -> None:
        """Compare the engine with the learner on the canary; reject the weights if they differ."""
        token_ids, expected, rounding = published.canary
        logprobs = await self._engine.prompt_logprobs(token_ids)
        difference = float(np.abs(np.subtract(logprobs, expected)).mean())
        limit = canary_limit(self._dtype, rounding)
        if not difference <= limit:  # this way round for NaN
            message = (
                f"weights {published.version} failed their canary: engine and learner differ by "
                f"{difference:.3g} nats a token, more than {limit:.3g}"
            )
            await self._engine.reject_weights(message)
            raise WeightMismatchError(message)

    async def rollout(self, request: RolloutRequest) -> RolloutResult:
        """Sample all responses of a request, with log-probabilities at the sampling temperature.

        The same request with the same weights gives the same responses while nothing else is
        sampled.

        Raises:
            InvalidInputError: a prompt is too long, empty, or not in the vocabulary.
            EngineFailedError: the engine failed; the request may be retried.
        """
        start_s = time.perf_counter()
        rows = [
            (prompt_id, prompt)
            for prompt_id, prompt in zip(request.prompt_ids, request.prompts, strict=True)
            for _ in range(request.group_size)
        ]
        seeds = response_seeds(request.seed, len(rows))
        responses = await self._engine.sample(
            [prompt for _, prompt in rows], seeds, request.temperature
        )
        trajectories = [
            pack(
                prompt.tolist(),
                response.token_ids,
                prompt_id=prompt_id,
                behavior_logprobs=response.logprobs,
                finish_reason=response.finish_reason,
                token_versions=response.policy_versions,
            )
            for (prompt_id, prompt), response in zip(rows, responses, strict=True)
        ]
        return RolloutResult(concatenate(trajectories), time.perf_counter() - start_s)


def canary_limit(dtype: Literal["bfloat16", "float32"], rounding_nats: float) -> float:
    """Return the largest mean difference of healthy weights, in nats per token.

    Args:
        rounding_nats: what the engine's precision makes in the learner, from the canary.
    """
    return max(CANARY_BOUND_NATS[dtype], ROUNDING_FACTOR * rounding_nats)


def response_seeds(request_seed: int, num_responses: int) -> list[int]:
    """Return a different seed of 63 bits for each response, unrelated to those of other requests.

    The first seeds do not depend on the number of responses.
    """
    sequence = np.random.SeedSequence(request_seed % 2**64)
    return [int(seed) >> 1 for seed in sequence.generate_state(num_responses, np.uint64)]
