"""The records that cross processes, and the interfaces (ports) of the workers.

A port is implemented by a Ray actor in production and by a plain object in tests. Imports no torch,
so that the driver stays light.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from alignment.mdp.ranked_responses import RankedResponses
from alignment.mdp.trajectories import PolicyVersion, Trajectories


class Canary(NamedTuple):
    """Short texts with the learner's log-probabilities: a worker with its weights has the same."""

    texts: tuple[tuple[int, ...], ...]
    """Token ids; the first token of each text is only context."""
    logprobs: tuple[tuple[float, ...], ...]
    """Log-probabilities of the other tokens of each text under the published weights, computed in
    float32 at temperature 1."""
    rounding_nats: float = 0.0
    """Median over the texts of the mean difference per token that bfloat16 makes in the learner
    itself; 0 for float32 engines. It depends on model and texts: 0.02 to 0.07 on SmolLM2-135M."""


class Published(NamedTuple):
    """A version of the weights in the weight store."""

    version: PolicyVersion
    path: str
    """Path of the safetensors file, which does not change once it has this name."""
    checksum: str
    """xxh3-64 of the file's bytes, hexadecimal."""
    canary: Canary


class RolloutRequest(NamedTuple):
    """Prompts to sample responses to."""

    prompt_ids: tuple[int, ...]
    """Rows of the prompts in the data set."""
    prompts: tuple[NDArray[np.int32], ...]
    """[prompt] token ids."""
    group_size: int
    """Responses to sample for each prompt."""
    seed: int
    """Each request has its own; the same request with the same weights gives the same responses."""
    temperature: float | None = None
    """Softmax temperature, 0 for the likeliest tokens; None is rollout.temperature."""


class RolloutResult(NamedTuple):
    """Responses to a request in its order; the group of a prompt is adjacent."""

    trajectories: Trajectories
    sampling_s: float
    """Seconds from the request's start to its last token."""


class Synced(NamedTuple):
    """The outcome of a sync of weights."""

    version: PolicyVersion
    """The version now served."""
    note: str | None = None
    """A sentence that the user should read, for example that the canary is near its bound."""


class RolloutWorker(Protocol):
    """Samples responses from the newest weights that it was given."""

    async def sync_weights(self, published: Published) -> Synced:
        """Load these weights, check their canary, and return the version now served.

        Raises:
            WeightMismatchError: the checksum or the canary does not match.
        """
        ...

    async def rollout(self, request: RolloutRequest) -> RolloutResult:
        """Sample all responses of the request, or raise."""
        ...


class DiscriminatorWorker(Protocol):
    """Trains and serves the discriminator."""

    def update(
        self,
        rollouts: Trajectories,
        demonstrations: Trajectories,
        held_out: Trajectories,
        ranked: RankedResponses | None = None,
        num_epochs: int = 1,
    ) -> dict[str, float]:
        """Measure on this fresh batch, then train on it and on replayed rollouts.

        Each prompt has one demonstration and a group of rollouts. The held-out demonstrations have
        prompts of their own, and are never trained on. The updates are also trained on the ranked
        responses, if there are any. With more than one epoch, updates on batches drawn from all
        samples so far follow.
        """
        ...

    def score(self, trajectories: Trajectories) -> NDArray[np.float32]:
        """Return logits, high for expert, without an offset for the class ratio.

        [trajectory]; at levels token and occupancy [response token], one for each prefix.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write weights, optimizer, replay and counters."""
        ...

    def load(self, folder: Path) -> None:
        """Continue from what save wrote."""
        ...


class TeacherWorker(Protocol):
    """Scores responses with an expert that is a model."""

    def logprobs(self, trajectories: Trajectories) -> NDArray[np.float32]:
        """Return the teacher's log-probability [response token] of each token, in nats."""
        ...

    def states(self, trajectories: Trajectories) -> NDArray[np.float32]:
        """Return the states [response token, hidden] from which its head predicts each token."""
        ...


class RewardSource(Protocol):
    """A reward model, a reward function, or a log-ratio of two policies."""

    def score(
        self, trajectories: Trajectories, expert_responses: Sequence[str]
    ) -> NDArray[np.float32]:
        """Return the reward [trajectory] of each trajectory.

        Args:
            expert_responses: [trajectory] the demonstration of the same prompt, as text.

        Raises:
            RewardError: if a reward cannot be computed; a failure is never a reward of 0.
        """
        ...


class AuxiliaryBatch(NamedTuple):
    """Preferences and demonstrations of a step of stage 2, with or without rollouts."""

    comparisons: RankedResponses
    """This rank's share."""
    num_comparisons: int
    """Over all ranks."""
    num_compared: int
    """Responses in them, over all ranks."""
    demonstrations: Trajectories
    """This rank's share of the demonstrations that are trained on in the same step."""
    num_demonstrations: int
    """Over all ranks."""
    num_demonstration_tokens: int
    """Over all ranks."""
    mismatched: Trajectories
    """This rank's share of prompts with responses to other prompts, from which the KL divergence of
    policy and reference is estimated."""
    num_mismatched: int
    """Over all ranks."""
    renews_reference: bool = False
    """Whether the policy before this step becomes the reference."""


@dataclass(frozen=True)
class SftStep:
    """One optimizer step of supervised fine-tuning on demonstrations."""

    step: int
    """Optimizer steps done before this task."""
    learning_rate: float
    trajectories: Trajectories
    """This rank's share of the demonstrations."""
    num_sequences: int
    """Demonstrations over all ranks."""
    num_action_tokens: int
    """Response tokens over all ranks."""
    publish: bool = False
    """Whether to publish the weights after the step."""


@dataclass(frozen=True)
class OnPolicyStep:
    """One optimizer step on scored rollouts."""

    step: int
    """Optimizer steps done before this task."""
    learning_rate: float
    trajectories: Trajectories
    """This rank's share; the group of a prompt is never split over ranks."""
    discriminator_logits: NDArray[np.float32]
    """[trajectory], or [response token] at levels token and occupancy; high for expert. Exact
    log-ratios where the expert is a teacher model; zeros where the objective has no divergence."""
    rewards: NDArray[np.float32]
    """[trajectory] weighted sum of the reward sources; zeros where there are none."""
    num_sequences: int
    """Trajectories over all ranks."""
    num_action_tokens: int
    """Response tokens over all ranks."""
    teacher_states: NDArray[np.float32] | None = None
    """[response token, hidden] of the teacher, at level state."""
    auxiliary: AuxiliaryBatch | None = None
    """Preferences and demonstrations trained on in the same step, if the run has any."""
    begins_stage: bool = False
    """Whether stage 2 begins with this step, which then starts with a new optimizer: the moments of
    stage 1 alone would move the weights for tens of steps, whatever the gradient."""
    publish: bool = True
    """Whether to publish the weights after the step."""


@dataclass(frozen=True)
class PreferenceStep:
    """One optimizer step on an auxiliary batch alone, without rollouts."""

    step: int
    """Optimizer steps done before this task."""
    learning_rate: float
    auxiliary: AuxiliaryBatch
    begins_stage: bool = False
    """As in OnPolicyStep."""
    publish: bool = True
    """Whether to publish the weights after the step."""


@dataclass(frozen=True)
class Evaluate:
    """Measure the negative log-likelihood of demonstrations; the weights stay as they are."""

    step: int
    """Optimizer steps done before this task."""
    trajectories: Trajectories
    """This rank's share of the demonstrations."""
    num_action_tokens: int
    """Response tokens over all ranks."""


@dataclass(frozen=True)
class SaveCheckpoint:
    """Write a checkpoint of the weights as they are."""

    step: int
    """Optimizer steps done before this task."""
    folder: str


@dataclass(frozen=True)
class Publish:
    """Publish the weights as they are, whatever the step."""


@dataclass(frozen=True)
class Stop:
    """End the rank; there are no more tasks."""


SKIPPED = {
    "learner/skipped_not_finite": "its loss or gradient is not finite",
    "learner/skipped_rejected": "objective.max_mean_log_ratio rejected every response",
}
"""Metrics of a step that changed no weights, each 1, and why it was skipped."""
OptimizerStep = SftStep | OnPolicyStep | PreferenceStep
LearnerTask = OptimizerStep | Evaluate | SaveCheckpoint | Publish | Stop
"""The next task of a learner rank. Tasks are frozen dataclasses, not named tuples: two tasks of
different types are never equal, even with the same values."""


class LearnerStart(NamedTuple):
    """State from which a worker group of the learner starts, at first or after a failure."""

    attempt: int
    """Part of every version that the worker group publishes."""
    checkpoint: str | None
    """Folder of the newest complete checkpoint, or None to start from the model."""


class LearnerPort(Protocol):
    """The driver as seen by the learner's ranks. Every call has a deadline and may raise."""

    def start(self, rank: int, world_size: int) -> LearnerStart:
        """Report that this rank is up; return the same start to all ranks of a worker group."""
        ...

    def next_task(self, rank: int, world_size: int, index: int) -> LearnerTask:
        """Wait for task number index of this worker group, from 0, and return this rank's share."""
        ...

    def published(self, published: Published) -> None:
        """Report that new weights are in the store (rank 0 only)."""
        ...

    def finished(self, index: int, metrics: Mapping[str, float]) -> None:
        """Report that a task is done, and its metrics (rank 0 only)."""
        ...
