"""What each worker can be told. Units are in the names: _s seconds, _tokens, _fraction, _gib."""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from actors.config.choices import (
    STATE_DIVERGENCES,
    UNBOUND_DIVERGENCES,
    DivergenceParameters,
    FrozenConfig,
    Level,
    divergence_name,
    parameter_problems,
)


class ModelConfig(FrozenConfig):
    """The language model that is aligned."""

    name: str
    """Folder (relative to the job file) or hub name of a causal language model in Hugging Face
    format with safetensors. A model that needs code of its own is refused."""


class SftConfig(FrozenConfig):
    """Stage 1, supervised fine-tuning: forward KL from expert to policy on the demonstrations."""

    steps: int = Field(100, ge=0)
    """Optimizer steps; 0 skips the stage."""
    prompts_per_step: int = Field(32, gt=0)
    """Demonstrations in one optimizer step, over all ranks."""
    learning_rate: float = Field(2e-5, gt=0.0)
    """Peak of AdamW's rate: linear warm-up, then a cosine down to a tenth."""
    reduction: Literal["sum_per_sequence", "token_mean", "sequence_mean"] = "token_mean"
    """How a step averages; only sum_per_sequence is the forward KL up to a constant factor."""
    td_weight: float = Field(0.0, ge=0.0)
    """IQ-Learn: weight of the squares of the rewards that the logits imply as soft Q-values; they
    can begin at 75 (learner/td_error), and 0.1 then weighs as much as the likelihood. 0 is plain
    cloning. Needs reduction: sum_per_sequence."""

    @model_validator(mode="after")
    def _rewards_are_summed_as_the_likelihood_is(self) -> Self:
        if self.td_weight and self.reduction != "sum_per_sequence":
            raise ValueError(
                f"sft.td_weight = {self.td_weight} weighs sums over whole responses, and "
                f"sft.reduction is {self.reduction}; set that to sum_per_sequence"
            )
        return self


class ReferenceConfig(FrozenConfig):
    """Penalty on the KL divergence from the policy to the one that entered stage 2."""

    coefficient: float = Field(0.02, ge=0.0)
    """Weight of the penalty, in reward units a nat; 0 switches it off and saves a forward pass."""
    estimator: Literal["k1_reward", "k2_loss", "k3_loss"] = "k1_reward"
    """k1_reward and k2_loss give the gradient of KL(policy, reference); k3_loss that of
    KL(reference, policy), the forward direction."""


class ObjectiveConfig(FrozenConfig):
    """Stage 2, the on-policy stage: which divergence from the expert is made small, and how."""

    divergence: Annotated[str, AfterValidator(divergence_name)] = "jensen_shannon"
    """From expert to policy: a name that `irlign divergences` lists, or module:function, a convex
    generator f of your own with f(1) = 0."""
    divergence_parameters: DivergenceParameters = DivergenceParameters()
    level: Level = "trajectory"
    """trajectory: one verdict on a whole response. token: verdicts on prefixes, the same divergence
    with credit by token. occupancy: of state-action visits, another objective. state: full
    vocabularies of a teacher and the policy at each state, states held constant."""
    divergence_weight: float = Field(1.0, ge=0.0)
    """Weight of the divergence's reward beside the reward sources; 0 starts no discriminator."""
    steps: int = Field(100, ge=0)
    """Optimizer steps; 0 skips the stage."""
    prompts_per_step: int = Field(32, gt=0)
    """Prompts in one optimizer step, over all ranks."""
    group_size: int = Field(4, ge=2)
    """Responses sampled for each prompt; the baseline of one is the mean of the others."""
    learning_rate: float = Field(1e-6, gt=0.0)
    """AdamW's rate after a linear warm-up."""
    max_staleness_steps: int = Field(0, ge=0)
    """Most optimizer steps by which a trajectory may lag the policy; 0 is strictly on-policy."""
    on_policy_fraction: float = Field(1.0, ge=0.0, le=1.0)
    """Share of a step's prompts whose states are the policy's own; those of the others are the
    demonstrations'. Only level state can do with less than 1."""
    advantage: Literal[
        "leave_one_out", "group_mean", "group_normalized", "best_of_group", "self_normalized"
    ] = "leave_one_out"
    """Baseline within a prompt's responses. group_normalized (GRPO) hides the choice of divergence;
    best_of_group clones the best response of each (rejection sampling); self_normalized weighs
    responses by their share of the group's e^h, for forward_kl only."""
    importance: Literal["none", "token", "sequence", "clip"] = "token"
    """Truncated weights against the mismatch of the sampler's log-probabilities and the learner's.
    Sequence weights are unbiased and suit responses up to 64 tokens; token weights suit any; clip
    is PPO's clipped ratio of each token."""
    max_mean_log_ratio: float | None = Field(None, gt=0.0)
    """A response whose mean log-ratio of learner to sampler is farther from 0, in nats a token, is
    rejected; None rejects none."""
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
            "objective.advantage: self_normalized weighs responses by e^h, the reward of "
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
