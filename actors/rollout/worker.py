"""The rollout worker: samples responses from the newest weights that it was given."""

import asyncio
import logging
import time
from collections.abc import Callable

import numpy as np

from actors.config.rollout import RolloutConfig
from actors.errors import WeightMismatchError
from actors.messages import Canary, Published, RolloutRequest, RolloutResult, Synced
from actors.rollout.canary_check import Scores, read_canary
from actors.rollout.engine import InferenceEngine
from actors.weights.store import WeightStore
from alignment.mdp.trajectories import concatenate, pack

logger = logging.getLogger(__name__)
REMEDIES = {
    "bfloat16": "set rollout.dtype to float32",
    "float32": "vLLM cannot update this model: choose another",
}
"""What a user can do if weights fail in every engine, by its precision."""


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
        self._before: tuple[Canary, Scores] | None = None
        self._one_sync_at_a_time = asyncio.Lock()

    async def sync_weights(self, published: Published) -> Synced:
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
                return Synced(served)
            tensors = await asyncio.to_thread(self._store.fetch, published)
            await self._engine.update_weights(tensors, published.version)
            note = await self._check_canary(published)
            return Synced(published.version, note)

    async def _check_canary(self, published: Published) -> str | None:
        """Reject the weights if the engine does not compute with them; or return a note."""
        texts = published.canary.texts
        # One at a time: equal batches have equal rounding, so an unchanged engine shows.
        scores = [await self._engine.prompt_logprobs(text) for text in texts]
        reading = read_canary(published.canary, scores, self._dtype, self._before)
        if reading.problem:
            message = (
                f"weights {published.version} failed their canary: {reading.problem}; if new "
                f"workers fail too, {REMEDIES[self._dtype]}"
            )
            await self._engine.reject_weights(message)
            raise WeightMismatchError(message)
        self._before = (published.canary, scores)
        return reading.note

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


def response_seeds(request_seed: int, num_responses: int) -> list[int]:
    """Return a different seed of 63 bits for each response, unrelated to those of other requests.

    The first seeds do not depend on the number of responses.
    """
    sequence = np.random.SeedSequence(request_seed % 2**64)
    return [int(seed) >> 1 for seed in sequence.generate_state(num_responses, np.uint64)]
