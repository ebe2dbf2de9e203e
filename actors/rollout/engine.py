"""What a rollout worker needs of an inference engine. Imports no torch: callers catch the error."""

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
    """Return the variables that must be set before a worker's process imports torch or vLLM."""
    num_threads = max(1, int(config.cpus_per_worker))
    environment = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in process: starts faster, dies with its worker
        "VLLM_LOGGING_LEVEL": "ERROR",  # below, it prints a traceback for want of a tokenizer
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "OMP_NUM_THREADS": str(num_threads),
    }
    if config.gpus_per_worker == 0.0:
        environment["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # it would bind all workers to core 0
        environment["TORCHDYNAMO_DISABLE"] = "1"  # else a compilation delays the first request
    if num_threads > 1:
        environment["OMP_WAIT_POLICY"] = "PASSIVE"  # spinning threads starve whoever shares a core
    return environment


class EngineFailedError(RetryableError):
    """The engine could not serve this request; the request itself is good and may be retried."""


class SampledResponse(NamedTuple):
    """One response, as sampled."""

    token_ids: Sequence[int]
    """The end token is the last if the response has one."""
    logprobs: Sequence[float]
    """Of each token under the distribution it was drawn from, the sampling temperature's."""
    finish_reason: FinishReason
    policy_versions: Sequence[PolicyVersion]
    """Of the weights that chose each token."""


class InferenceEngine(Protocol):
    """Samples from whatever weights it was last given; refuses to before it was given any."""

    @property
    def policy_version(self) -> PolicyVersion | None:
        """Weights that it serves; None when it holds none that can be trusted."""
        ...

    @property
    def num_steps(self) -> int:
        """Forward passes since the start: an engine with work and a constant number hangs."""
        ...

    @property
    def num_in_flight(self) -> int:
        """Requests that wait or are being extended."""
        ...

    async def sample(
        self, prompts: Sequence[NDArray[np.int32]], seeds: Sequence[int]
    ) -> list[SampledResponse]:
        """Sample one response for each prompt; equal prompts are prefilled only once.

        Raises:
            InvalidInputError: a prompt cannot be answered; none is sampled then.
            EngineFailedError: a step failed, or there are no weights to trust.
        """
        ...

    async def prompt_logprobs(self, token_ids: Sequence[int]) -> list[float]:
        """Return the log-probability of each token after the first, at temperature 1."""
        ...

    async def update_weights(
        self, tensors: Mapping[str, "torch.Tensor"], version: PolicyVersion
    ) -> None:
        """Swap all weights between two steps; running responses go on with the new ones.

        Raises:
            WeightMismatchError: names or shapes are not the model's; the old weights stay.
            EngineFailedError: the swap broke off; nothing is sampled until one succeeds.
        """
        ...

    async def reject_weights(self, reason: str) -> None:
        """Trust these weights no more: fail what is in flight and refuse until an update."""
        ...


def check_prompt(prompt: NDArray[np.int32], *, num_tokens: int, max_prompt_tokens: int) -> None:
    """Refuse what an engine cannot answer and might not survive.

    Args:
        prompt: token ids.
        num_tokens: size of the model's vocabulary.
        max_prompt_tokens: most that the engine has room for.

    Raises:
        InvalidInputError: the prompt is empty, too long, or holds an id outside the vocabulary.
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
