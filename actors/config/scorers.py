"""What a teacher and reward sources can be told. Imports no torch."""

from typing import Literal

from pydantic import Field

from actors.config.choices import DiscriminatorLoss, FrozenConfig


class DiscriminatorConfig(FrozenConfig):
    """The classifier that tells expert responses from the policy's; its logit is the reward.

    `irlign reward-model train` builds its model by the same settings.
    """

    num_workers: int = Field(1, gt=0)
    """One trains, all score."""
    cpus_per_worker: float = Field(1.0, gt=0.0)
    """CPU cores a worker holds and threads it computes with."""
    gpus_per_worker: float = Field(0.0, ge=0.0)
    """0 computes on the CPU."""
    num_layers: int | None = Field(None, gt=0)
    """Keep only the first layers of the policy's architecture; None keeps all."""
    tuning: Literal["full", "lora", "frozen"] = "full"
    """What of the backbone is trained beside the scalar head."""
    loss: DiscriminatorLoss = "cross_entropy"
    """What trains the logit. pairwise compares responses to one prompt (Bradley-Terry); variational
    maximizes the f-GAN bound of the objective's divergence; least_squares is the Brier score. The
    reward does not depend on the choice, except off the optimum."""
    learning_rate: float = Field(1e-5, gt=0.0)
    """AdamW's rate."""
    updates_per_step: int = Field(1, gt=0)
    """Discriminator updates for each policy step."""
    warm_up_steps: int = Field(10, ge=0)
    """Batches on which only the discriminator trains before the policy's first on-policy step."""
    label_smoothing: float = Field(0.05, ge=0.0, lt=0.5)
    """Two-sided; bounds the logit at log((1 - s) / s). Not for losses pairwise and wasserstein."""
    gradient_penalty: float = Field(0.0, ge=0.0)
    """Weight of the squared gradient norm of the logit by the input embeddings (R1); with
    wasserstein, of the squared distance of that norm from 1."""
    token_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of response tokens of both classes whose embeddings an update hides."""
    spectral_norm: bool = False
    """Keep the norm of the head's weights at 1 or below."""
    max_accuracy: float = Field(1.0, gt=0.5, le=1.0)
    """No update while accuracy on demonstrations held out is above it; 1 never stops."""
    replay_fraction: float = Field(0.25, ge=0.0, le=0.75)
    """Share of the policy's responses in an update that come from earlier steps."""


class TeacherConfig(FrozenConfig):
    """An expert that is a model: its exact log-probabilities replace the discriminator's logits."""

    model: str
    """Folder or hub name of a causal language model with the policy's vocabulary."""
    num_workers: int = Field(1, gt=0)
    """Number of workers, each with the whole teacher; every batch is scored by all of them."""
    cpus_per_worker: float = Field(1.0, gt=0.0)
    """CPU cores that a worker reserves, and the number of threads it computes with."""
    gpus_per_worker: float = Field(0.0, ge=0.0)
    """GPUs that a worker reserves; 0 computes on the CPU."""


class RewardConfig(FrozenConfig):
    """A further reward source: exactly one of model and function."""

    model: str | None = None
    """Folder or hub name of a sequence-classification model with one output."""
    function: str | None = None
    """Import path module:name of a function of (prompt, response, expert_response) to a number."""
    weight: float = 1.0
    """Factor of this source in the total reward. Beside a divergence the source is first divided by
    its standard deviation on held-out answers before stage 2, measured once."""
    num_workers: int = Field(1, gt=0)
    """Copies of this source."""
    on_error: Literal["stop", "drop"] = "stop"
    """What a prompt costs whose reward cannot be computed: the run, or the prompt, counted."""
