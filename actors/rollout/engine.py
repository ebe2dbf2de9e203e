"""The interface between a rollout worker and its inference engine. Imports no torch."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from actors.config.rollout import RolloutConfig
from actors.errors import InvalidInputError, RetryableError
from alignment.mdp.trajectories import FinishReason, PolicyVersion

if TYPE_CHECKING:
    import torch


def engine_environment(config: RolloutConfig) -> dict[str, str]:
    """Return the environment variables to set before a worker's process imports torch or vLLM."""
    num_threads = max(1, int(config.cpus_per_worker))
    environment = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in process: starts faster, dies with its worker
        "VLLM_LOGGING_LEVEL": "ERROR",  # lower levels print a traceback: there is no tokenizer
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "OMP_NUM_THREADS": str(num_threads),
    }
    if config.gpus_per_worker == 0.0:
        environment["VLLM_CPU_OMP_THREADS_BIND"] = (
            "nobind"  # otherwise all workers are bound to core 0
        )
        environment["TORCHDYNAMO_DISABLE"] = "1"  # otherwise compilation delays the first request
    if num_threads > 1:
        environment["OMP_WAIT_POLICY"] = (
            "PASSIVE"  # spinning threads would starve others on the core
        )
    return environment


class EngineFailedError(RetryableError):
    """The engine could not serve this request; the request is valid and may be retried."""


class SampledResponse(NamedTuple):
    """One sampled response."""

    token_ids: Sequence[int]
    """Response tokens, the end token included if there is one."""
    logprobs: Sequence[float]
    """[token] under the distribution that it was sampled from, at the sampling temperature."""
    finish_reason: FinishReason
    policy_versions: Sequence[PolicyVersion]
    """[token] of the weights that it was sampled from."""


class InferenceEngine(Protocol):
    """Samples from the weights of the last update; refuses to before the first one."""

    @property
    def policy_version(self) -> PolicyVersion | None:
        """Version of the weights that it serves; None if there are none, or they were rejected."""
        ...

    async def sample(
        self,
        prompts: Sequence[NDArray[np.int32]],
        seeds: Sequence[int],
        temperature: float | None = None,
    ) -> list[SampledResponse]:
        """Sample one response for each prompt; equal prompts are prefilled only once.

        Args:
            temperature: of the softmax, 0 for the likeliest tokens; None is rollout.temperature.

        Raises:
            InvalidInputError: a prompt is invalid; then nothing is sampled.
            EngineFailedError: a step failed, or the engine has no weights to sample from.
        """
        ...

    async def prompt_logprobs(self, token_ids: Sequence[int]) -> list[float]:
        """Return the log-probability of each token after the first, at temperature 1."""
        ...

    async def update_weights(
        self, tensors: Mapping[str, "torch.Tensor"], version: PolicyVersion
    ) -> None:
        """Replace all weights between two steps; running responses continue with the new ones.

        Raises:
            WeightMismatchError: names or shapes are not the model's; the old weights stay.
            EngineFailedError: the update failed; nothing is sampled until one succeeds.
        """
        ...

    async def reject_weights(self, reason: str) -> None:
        """Fail the requests in flight, and refuse to sample until the next update."""
        ...


def check_prompt(prompt: NDArray[np.int32], *, num_tokens: int, max_prompt_tokens: int) -> None:
    """Raise InvalidInputError if a prompt is empty, too long, or not in the vocabulary.

    vLLM itself fails on such a prompt, and other requests with it.

    Args:
        num_tokens: size of the model's vocabulary.
    """
    if not 0 < len(prompt) <= max_prompt_tokens:
        raise InvalidInputError(
            f"a prompt has {len(prompt)} tokens, and must have 1 to {max_prompt_tokens}: "
            f"shorten it, or raise data.max_prompt_tokens"
        )
    foreign = prompt[(prompt < 0) | (prompt >= num_tokens)]
    if len(foreign):
        raise InvalidInputError(
            f"token id {foreign[0]} is not in the model's vocabulary of {num_tokens}: "
            f"a prompt must be tokenized by the model's own tokenizer"
        )
