"""What each worker can be told. Units are in the names: _s seconds, _tokens, _fraction, _gib."""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

DivergenceName = Literal[
    "forward_kl",
    "reverse_kl",
    "jensen_shannon",
    "jeffreys",
    "alpha",
    "squared_hellinger",
    "pearson_chi2",
    "neyman_chi2",
    "total_variation",
    "generalized_js",
    "skew_forward_kl",
    "skew_reverse_kl",
    "le_cam",
    "log_d",
    "fairl",
    "wasserstein",
]
STATE_DIVERGENCES = (
    "forward_kl",
    "reverse_kl",
    "jensen_shannon",
    "generalized_js",
    "skew_forward_kl",
    "skew_reverse_kl",
    "total_variation",
)
"""Those that are computed from two full next-token distributions."""
UNBOUND_DIVERGENCES = ("fairl", "wasserstein")
"""Those without a convex generator: a reward or a critic, and no f to bound or to integrate."""
DataSource = Annotated[str, Field(pattern=r"^hub:[\w.-]+/")] | Path
"""A hub name, or a file or folder."""
Level = Literal["trajectory", "token", "occupancy", "state"]
DiscriminatorLoss = Literal["cross_entropy", "pairwise", "variational", "least_squares"]


def divergence_name(name: str) -> str:
    """Accept a name of DivergenceName or an import path; no torch here, so a look at names only."""
    names = get_args(DivergenceName)
    if name in names or re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name):
        return name
    close = get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise ValueError(
        f"unknown divergence {name!r}; {hint}choose one of {', '.join(names)}, "
        "or name a convex function of your own as module:function"
    )


class FrozenConfig(BaseModel):
    """Immutable, and an unknown key is an error: a misspelt setting must not pass silently."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class ModelConfig(FrozenConfig):
    """The language model that is aligned."""

    name: str
    """Folder (relative to the job file) or hub name of a causal language model in Hugging Face
    format with safetensors. A model that needs code of its own is refused."""


class WarmStartConfig(FrozenConfig):
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
                f"warm_start.td_weight = {self.td_weight} weighs sums over whole responses, and "
                f"warm_start.reduction is {self.reduction}; set that to sum_per_sequence"
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
    """Stage 2, on-policy imitation: which divergence from the expert is made small, and how."""

    divergence: Annotated[str, AfterValidator(divergence_name)] = "jensen_shannon"
    """From expert to policy: a name that `irlign divergences` lists, or module:function, a convex
    generator f of your own with f(1) = 0."""
    divergence_parameters: dict[str, float] = Field(default_factory=dict)
    """What the divergence takes: alpha of alpha, beta of generalized_js, skew of skew_*."""
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


class RolloutConfig(FrozenConfig):
    """How rollout workers sample responses."""

    num_workers: int = Field(1, gt=0)
    """Number of inference engines, each in a process of its own."""
    cpus_per_worker: float = Field(1.0, gt=0.0)
    """CPU cores a worker holds and threads it computes with."""
    gpus_per_worker: float = Field(0.0, ge=0.0)
    """0 samples on the CPU."""
    temperature: float = Field(1.0, gt=0.0)
    """Softmax temperature. Log-probabilities are recorded and learnt at this temperature."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of the engine's weights."""
    interrupt: Literal["finish", "keep"] = "finish"
    """What new weights do to responses under way: finish lets them end on the old ones first; keep
    goes on with the new ones, in the middle of a response."""
    max_sequences: int = Field(64, gt=0)
    """Responses that the engine extends at once."""
    kv_cache_gib: float = Field(0.5, gt=0.0)
    """Memory for keys and values."""


class DiscriminatorConfig(FrozenConfig):
    """The classifier that tells expert responses from the policy's; its logit is the reward.

    A reward model that irlign trains has the same shape, and the workers of a teacher the same
    place: the settings of both are here.
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


class LearnerConfig(FrozenConfig):
    """How the policy is updated."""

    num_ranks: int = Field(1, gt=0)
    """Processes over which the policy is sharded."""
    min_ranks: int | None = Field(None, gt=0)
    """With fewer than num_ranks the learner begins if there is no room for more, and again from the
    newest checkpoint whenever ranks are lost or find room; None: always with num_ranks."""
    cpus_per_rank: float = Field(1.0, gt=0.0)
    """CPU cores a rank holds and threads it computes with."""
    gpus_per_rank: float = Field(0.0, ge=0.0)
    """0 trains on the CPU over gloo; 1 on GPUs over NCCL; a part of one shares it."""
    autocast: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of the matrix products; master weights and optimizer are float32."""
    max_tokens_per_microbatch: int = Field(4096, gt=0)
    """What fits in memory at once; a prompt and all its responses must fit."""
    checkpoint_every_steps: int = Field(50, gt=0)
    """A checkpoint is also written at the end of each stage."""

    @model_validator(mode="after")
    def _fewest_ranks_are_no_more_than_most(self) -> Self:
        if self.min_ranks is not None and self.min_ranks > self.num_ranks:
            bounds = f"{self.min_ranks} is more than learner.num_ranks = {self.num_ranks}"
            raise ValueError(f"learner.min_ranks = {bounds}; lower it, or raise learner.num_ranks")
        return self
