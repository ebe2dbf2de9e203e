"""What workers say to one another: the records that cross processes and the ports between them.

Whoever holds a port does not know what is behind it: a Ray actor in production, a plain object in
tests. No torch here, so that the driver stays light.
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
    """A few tokens and what the learner thinks of them: proves that a worker holds its weights."""

    token_ids: tuple[int, ...]
    """A short text, beginning with a token that is only context."""
    logprobs: tuple[float, ...]
    """Of each token after the first, at temperature 1, by the published weights."""


class Published(NamedTuple):
    """Weights that the learner has made available in the weight store."""

    version: PolicyVersion
    path: str
    """Of the safetensors file, which no one changes after its name appears."""
    checksum: str
    """xxh3-64 of the file's bytes, hexadecimal."""
    canary: Canary


class RolloutRequest(NamedTuple):
    """Prompts to answer."""

    prompt_ids: tuple[int, ...]
    """Rows of the prompts in the data set."""
    prompts: tuple[NDArray[np.int32], ...]
    """Token ids of each."""
    group_size: int
    """Responses to each prompt."""
    seed: int
    """Of this request alone; the same request with the same weights gives the same responses."""


class RolloutResult(NamedTuple):
    """Answers to a request, a prompt's group together, in the request's order."""

    trajectories: Trajectories
    sampling_s: float
    """Seconds from the request's start to its last token."""


class RolloutWorker(Protocol):
    """Samples responses from the newest weights it was given."""

    async def sync_weights(self, published: Published) -> PolicyVersion:
        """Load these weights, prove them, and return the version now served.

        Raises:
            WeightMismatchError: the checksum or the canary does not agree.
        """
        ...

    async def rollout(self, request: RolloutRequest) -> RolloutResult:
        """Sample the responses. Never fewer than asked: a failure raises."""
        ...


class DiscriminatorWorker(Protocol):
    """Trains and serves the discriminator."""

    def update(
        self,
        rollouts: Trajectories,
        demonstrations: Trajectories,
        held_out: Trajectories,
        ranked: RankedResponses | None = None,
    ) -> dict[str, float]:
        """Measure on this fresh batch, then train on it and on replayed rollouts.

        Rollouts and demonstrations hold the same prompts; demonstrations one each, rollouts a group
        each. The demonstrations held out have prompts of their own, and are only measured on.
        Preferences are learned in the same updates, where there are some.
        """
        ...

    def score(self, trajectories: Trajectories) -> NDArray[np.float32]:
        """Return logits, high for expert, without an offset for the class ratio.

        [trajectory]; or, at levels token and occupancy, [response token], one for each prefix.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write weights, optimizer, replay and counters."""
        ...

    def load(self, folder: Path) -> None:
        """Go on from what save wrote."""
        ...


class TeacherWorker(Protocol):
    """Serves an expert that is a model."""

    def logprobs(self, trajectories: Trajectories) -> NDArray[np.float32]:
        """[response token] the teacher's log-probability of each token, in nats."""
        ...

    def states(self, trajectories: Trajectories) -> NDArray[np.float32]:
        """[response token, hidden] the states from which its output head predicts each token."""
        ...


class RewardSource(Protocol):
    """A reward model, or a reward function."""

    def score(
        self, trajectories: Trajectories, expert_responses: Sequence[str]
    ) -> NDArray[np.float32]:
        """Return one reward a trajectory; expert_responses are the demonstrations, as text.

        Raises:
            RewardError: naming the prompt; an error is never a reward of 0.
        """
        ...


class AuxiliaryBatch(NamedTuple):
    """What a step of stage 2 learns beside the rollouts, or without any."""

    comparisons: RankedResponses
    """This rank's part."""
    num_comparisons: int
    """Over all ranks."""
    num_compared: int
    """Responses in them, over all ranks."""
    demonstrations: Trajectories
    """This rank's share of those that are cloned in the same step."""
    num_demonstrations: int
    """Over all ranks."""
    num_demonstration_tokens: int
    """Over all ranks."""
    mismatched: Trajectories
    """This rank's share of prompts with responses to others, which measure how far policy and
    reference are apart."""
    num_mismatched: int
    """Over all ranks."""
    renews_reference: bool = False
    """The policy as it is before this step becomes the reference."""


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
    publish: bool = True
    """Whether to publish the weights after the step."""


@dataclass(frozen=True)
class PreferenceStep:
    """One optimizer step on an auxiliary batch alone, without rollouts."""

    step: int
    """Optimizer steps done before this task."""
    learning_rate: float
    auxiliary: AuxiliaryBatch
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
"""What a learner rank does next. Frozen dataclasses, not named tuples: two tasks of different types
are never equal, also if they hold the same values."""


class LearnerStart(NamedTuple):
    """How a learner begins, and how it begins again after a failure."""

    attempt: int
    """Goes into every version that it publishes."""
    checkpoint: str | None
    """Folder of the newest complete checkpoint, or None to begin from the model."""


class LearnerPort(Protocol):
    """What the learner's ranks need of the driver. Every call has a deadline and may raise."""

    def start(self, rank: int, world_size: int) -> LearnerStart:
        """Say that this rank is up. All ranks of a worker group are told the same."""
        ...

    def next_task(self, rank: int, world_size: int, index: int) -> LearnerTask:
        """Wait for task number index of this worker group, counted from 0 since its start."""
        ...

    def published(self, published: Published) -> None:
        """Say that new weights are in the store (rank 0 only)."""
        ...

    def finished(self, index: int, metrics: Mapping[str, float]) -> None:
        """Say that a task is done, its checkpoint written (rank 0 only)."""
        ...
