"""The model, sft and objective sections of a job file. Names of settings end in their unit."""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from actors.config.choices import (
    STATE_DIVERGENCES,
    UNBOUND_DIVERGENCES,
    DivergenceParameters,
    FrozenConfig,
    LearningRate,
    Level,
    divergence_name,
    parameter_problems,
)
from alignment.learning_rate import Schedule


class ModelConfig(FrozenConfig):
    """The language model that is aligned."""

    name: str
    """Folder, relative to the job file, or hub name of a causal language model in Hugging Face
    format with safetensors. A model that needs remote code is refused."""


class SftConfig(FrozenConfig):
    """Stage 1, supervised fine-tuning: forward KL from expert to policy on the demonstrations."""

    steps: int = Field(100, ge=0)
    """Optimizer steps; 0 skips the stage."""
    prompts_per_step: int = Field(32, gt=0)
    """Demonstrations per optimizer step, over all ranks."""
    learning_rate: LearningRate = 2e-5
    """Peak learning rate of AdamW: linear warm-up, then cosine decay to a tenth. If a run resumes
    with other sft.steps, the rate falls from where it is to a tenth of the peak at the new last
    step, so it never jumps."""
    reduction: Literal["sum_per_sequence", "token_mean", "sequence_mean"] = "token_mean"
    """Reduction of the loss over a step. Only sum_per_sequence is the forward KL, up to a constant
    factor."""
    td_weight: float = Field(0.0, ge=0.0)
    """IQ-Learn: weight of the squared rewards that the logits imply as soft Q-values. These can
    start at 75 (metric learner/td_error); a weight of 0.1 then equals that of the likelihood. 0 is
    behavior cloning. Requires reduction: sum_per_sequence."""

    @model_validator(mode="after")
    def _rewards_are_summed_as_the_likelihood_is(self) -> Self:
        if self.td_weight and self.reduction != "sum_per_sequence":
            raise ValueError(
                f"sft.td_weight = {self.td_weight} requires sums over whole responses, and "
                f"sft.reduction is {self.reduction}; set sft.reduction to sum_per_sequence"
            )
        return self


class ReferenceConfig(FrozenConfig):
    """Penalty on the KL divergence of the policy from the reference, the policy after stage 1."""

    coefficient: float = Field(0.02, ge=0.0)
    """Weight of the penalty, in units of reward per nat; 0 disables it and saves a forward pass."""
    estimator: Literal["k1_reward", "k2_loss", "k3_loss"] = "k1_reward"
    """Estimator of the penalty. k1_reward and k2_loss have the gradient of KL(policy, reference);
    k3_loss has that of KL(reference, policy), the forward direction."""


class ObjectiveConfig(FrozenConfig):
    """Stage 2, on-policy: the divergence from the expert, and the estimator of its gradient."""

    divergence: Annotated[str, AfterValidator(divergence_name)] = "jensen_shannon"
    """Divergence between expert and policy: a name that `irlign divergences` lists, or the import
    path module:function of a convex generator f with f(1) = 0."""
    divergence_parameters: DivergenceParameters = DivergenceParameters()
    level: Level = "trajectory"
    """Level at which expert and policy are compared. trajectory: one logit per response. token: the
    same divergence with one logit per prefix and credit per token. occupancy: the divergence of
    the distributions of visited states and actions, which is another objective. state: the
    divergence of the full next-token distributions of a teacher and the policy at each visited
    state; the states are constants for the gradient."""
    divergence_weight: float = Field(1.0, ge=0.0)
    """Weight of the divergence's reward in the sum with the reward sources; 0 starts no
    discriminator."""
    steps: int = Field(100, ge=0)
    """Optimizer steps; 0 skips the stage."""
    prompts_per_step: int = Field(32, gt=0)
    """Prompts per optimizer step, over all ranks."""
    group_size: int = Field(4, ge=2)
    """Responses sampled per prompt. With advantage: leave_one_out the baseline of a response is the
    mean reward of the others."""
    learning_rate: LearningRate = 1e-6
    """Peak learning rate of AdamW, after a linear warm-up."""
    learning_rate_schedule: Schedule = "constant"
    """Learning rate after the warm-up: constant, or a fall over the stage's steps to a tenth of the
    peak, along a half cosine or a line; if a run resumes with other objective.steps, it falls from
    where it is. On-policy training often gains in its first steps and loses in later ones, which
    smaller steps prevent."""
    demonstrations_weight: float = Field(0.0, ge=0.0)
    """Weight of the negative log-likelihood of prompts_per_step demonstrations in the loss of every
    step, reduced as sft.reduction says: it holds the policy near the demonstrations. 0 adds none.
    In a job with preferences, preferences.parameters.sft_weight is the same; set one of them."""
    max_staleness_steps: int = Field(0, ge=0)
    """Maximum age of a trajectory, in optimizer steps of the policy; 0 is strictly on-policy. With
    a discriminator each step of age costs the learner a copy of the policy's weights, by which it
    corrects the logits for what the policy has moved since."""
    on_policy_fraction: float = Field(1.0, ge=0.0, le=1.0)
    """Share of the prompts of a step whose responses the policy samples; the others take the
    response of their demonstration. Less than 1 requires level: state."""
    advantage: Literal[
        "leave_one_out", "group_mean", "group_normalized", "best_of_group", "self_normalized"
    ] = "leave_one_out"
    """Advantage of a response within its group. group_normalized (GRPO) divides by the standard
    deviation and so removes much of what distinguishes the divergences; best_of_group clones the
    best response (rejection sampling); self_normalized weights responses by their share of the
    group's e^logit, for forward_kl only."""
    importance: Literal["none", "token", "sequence", "clip"] = "token"
    """Importance weights that correct the difference between the log-probabilities of sampler and
    learner, truncated. sequence is unbiased and suits responses of up to 64 tokens; token suits any
    length; clip is the clipped ratio per token of PPO."""
    max_mean_log_ratio: float | None = Field(None, gt=0.0)
    """Maximum absolute value of the mean log-ratio of learner to sampler, in nats per token; a
    response beyond it is rejected. None rejects none."""
    reference: ReferenceConfig = ReferenceConfig()

    @model_validator(mode="after")
    def _choices_agree(self) -> Self:
        for problem in _disagreements(self):
            raise ValueError(problem)
        return self


def _disagreements(objective: ObjectiveConfig) -> Iterator[str]:
    """Yield, for each choice that another one forbids, the reason and the remedy."""
    name, level, advantage = objective.divergence, objective.level, objective.advantage
    if level == "state" and name not in STATE_DIVERGENCES:
        yield (
            f"objective.divergence: {name} is not defined at objective.level: state, which "
            f"compares full vocabularies; choose one of {', '.join(STATE_DIVERGENCES)}, or level "
            "trajectory or token"
        )
    if level == "occupancy" and name in UNBOUND_DIVERGENCES:
        yield (
            f"objective.divergence: {name} is not defined at objective.level: occupancy, because "
            "it has no generator f to sum over prefixes; use level trajectory or token"
        )
    if level != "trajectory" and advantage != "leave_one_out":
        yield (
            f"objective.advantage: {advantage} compares whole responses, and objective.level: "
            f"{level} gives credit by token; use leave_one_out, or level trajectory"
        )
    if advantage == "self_normalized" and name != "forward_kl":
        yield (
            "objective.advantage: self_normalized weights responses by e^h, the reward of "
            f"forward_kl, and objective.divergence is {name}; use leave_one_out, or forward_kl"
        )
    if objective.on_policy_fraction < 1.0 and level != "state":
        yield (
            f"objective.on_policy_fraction = {objective.on_policy_fraction} needs level state: a "
            f"policy gradient (level {level}) needs the policy's own samples; set it to 1"
        )
    if objective.on_policy_fraction < 1.0 and objective.reference.coefficient:
        yield (
            f"objective.on_policy_fraction = {objective.on_policy_fraction} and "
            f"objective.reference.coefficient = {objective.reference.coefficient} exclude each "
            "other: the penalty needs the policy's own samples; set the coefficient to 0"
        )
    yield from parameter_problems("objective", name, objective.divergence_parameters)
