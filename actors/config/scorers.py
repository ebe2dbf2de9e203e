"""The discriminator, teacher and rewards sections of a job file."""

from typing import Literal, Self

from pydantic import Field, model_validator

from actors.config.choices import DiscriminatorLoss, FrozenConfig, LearningRate

AUC_STEPS = 3
"""Warm-up steps over which the discriminator's AUC is averaged: that of one batch is noisy."""


class DiscriminatorConfig(FrozenConfig):
    """Classifier that distinguishes expert responses from the policy's; its logit is the reward.

    num_layers, tuning and learning_rate also configure `irlign reward-model train`.
    """

    num_workers: int = Field(1, gt=0)
    """Number of workers. One is trained; all of them score."""
    cpus_per_worker: float = Field(1.0, gt=0.0)
    """CPU cores that a worker reserves, and the number of threads it computes with."""
    gpus_per_worker: float = Field(0.0, ge=0.0)
    """GPUs that a worker reserves; 0 computes on the CPU."""
    num_layers: int | None = Field(None, gt=0)
    """Number of the policy's layers to keep, from the first on; None keeps all."""
    tuning: Literal["full", "lora", "frozen"] = "full"
    """Weights trained in addition to the scalar head: the whole backbone (full), low-rank adapters
    (lora), or none (frozen)."""
    loss: DiscriminatorLoss = "cross_entropy"
    """Loss of the logit. pairwise compares responses to one prompt (Bradley-Terry); variational
    maximizes the f-GAN bound of the objective's divergence; least_squares is the Brier score. All
    have the same optimum, and so the same reward there."""
    learning_rate: LearningRate = 1e-5
    """Learning rate of AdamW."""
    updates_per_step: int = Field(1, gt=0)
    """Discriminator updates per policy step."""
    warm_up_steps: int = Field(10, ge=0)
    """Maximum number of batches on which the discriminator alone is trained, before the first
    on-policy step; see ready_auc."""
    warm_up_epochs: int = Field(1, gt=0)
    """Passes over the samples of the warm-up, which are expensive to sample: each of its steps is
    followed by as many updates, less one pass, on batches drawn at random from all samples so far.
    """
    ready_auc: float = Field(0.65, ge=0.5, le=1.0)
    """The warm-up ends when the discriminator's AUC on samples that it has not been trained on
    reaches this value, on average over three steps. Demonstrations of the evaluation set count if
    there are some. AUC is the share of pairs, of an expert and a policy response, with the higher
    logit on the expert's; chance is 0.5."""
    not_ready: Literal["continue", "stop"] = "continue"
    """If ready_auc is not reached in warm_up_steps: continue with stage 2, in which the
    discriminator is trained further, or stop the run before it. An event says which."""
    label_smoothing: float = Field(0.05, ge=0.0, lt=0.5)
    """Smoothing of both labels by s, which bounds the logit at log((1 - s) / s). Not with loss
    pairwise, nor with divergence wasserstein."""
    gradient_penalty: float = Field(0.0, ge=0.0)
    """Weight of the squared norm of the logit's gradient with respect to the input embeddings (R1);
    with divergence wasserstein, of the squared distance of that norm from 1."""
    token_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of the response tokens, of both classes, whose embeddings are masked in an update."""
    spectral_norm: bool = False
    """Keep the spectral norm of the head's weights at 1 or below."""
    max_accuracy: float = Field(1.0, gt=0.5, le=1.0)
    """Accuracy on the evaluation set above which updates are skipped; 1 skips none."""
    replay_fraction: float = Field(0.25, ge=0.0, le=0.75)
    """Share of the policy's responses in an update that are from earlier steps."""

    @model_validator(mode="after")
    def _readiness_can_be_measured(self) -> Self:
        if self.not_ready == "stop" and self.warm_up_steps <= AUC_STEPS:
            raise ValueError(
                f"discriminator.not_ready = stop needs discriminator.warm_up_steps of at least "
                f"{AUC_STEPS + 1}, not {self.warm_up_steps}: the AUC is measured before each "
                f"update and averaged over {AUC_STEPS} steps; raise warm_up_steps, or set "
                "not_ready to continue"
            )
        return self


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
    """Weight of this source in the total reward. Together with a divergence, the source is first
    divided by the standard deviation of its rewards of responses to one prompt, pooled over
    evaluation prompts and measured once before stage 2: only such differences matter to the
    gradient."""
    num_workers: int = Field(1, gt=0)
    """Number of workers, each with a copy of this source."""
    on_error: Literal["stop", "drop"] = "stop"
    """If a reward cannot be computed: stop the run, or drop the prompt and count it."""
