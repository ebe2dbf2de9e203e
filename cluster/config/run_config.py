"""The configuration of a run, as a job file gives it. Imports no torch, so checks are fast."""

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from actors.config.choices import DataSource, FrozenConfig
from actors.config.learner import LearnerConfig
from actors.config.objective import ModelConfig, ObjectiveConfig, SftConfig
from actors.config.preferences import PreferencesConfig
from actors.config.reward_model import RewardModelConfig
from actors.config.rollout import RolloutConfig
from actors.config.scorers import DiscriminatorConfig, RewardConfig, TeacherConfig

MIN_TEMPERATURE = 0.01
"""Smallest temperature above 0; vLLM raises smaller ones to it."""
MAX_RESPONSE_TOKENS = 256
"""Maximum length of a sampled response if the model is not from a run."""


class DataConfig(FrozenConfig):
    """Demonstrations: prompts and the expert's responses."""

    path: DataSource | None = None
    """File or folder, relative to the job file, or hub:owner/name, in any format that `irlign
    check` detects, such as JSON lines of prompt and response. None takes the best responses of
    preferences.path."""
    discriminator_context: str | None = None
    """Column of path whose text the discriminator, the teacher and the rewards read before the
    prompt; the policy never does. None gives them the policy's prompt."""
    system_prompt: str | None = None
    """System message of every conversation, formatted by the model's chat template."""
    held_out_fraction: float = Field(0.05, gt=0.0, lt=1.0)
    """Share of the rows in the evaluation set, selected by a hash of the prompt, in which case,
    white space and Unicode form do not count."""
    max_prompt_tokens: int = Field(512, gt=0)
    """Maximum length of a prompt, template included. A longer prompt is an error."""
    max_response_tokens: int = Field(512, gt=0)
    """Maximum length of a response, end token included. Sampling stops at it, and a longer
    demonstration is an error."""


class BestConfig(FrozenConfig):
    """The best policy by evaluation.metric at rollout.temperature, kept in RUN/best.

    It is measured after SFT and at each evaluation of the on-policy stage.
    """

    metric: str = Field(pattern=r"^[^/]+/[^/]+$")
    """Group and category, such as closed/false. The group is "all" without evaluation.group_by, and
    "value" stands for the category of a metric of numbers."""
    goal: Literal["min", "max"]
    """Whether the smallest or the largest value is the best."""


class EvaluationConfig(FrozenConfig):
    """Measurements on the evaluation set before, during and after the training."""

    every_steps: int = Field(20, gt=0)
    """Steps between measurements of the negative log-likelihood."""
    num_prompts: int = Field(64, gt=0)
    """Prompts to which the policy responds before the training, after stage 1 and at the end."""
    patterns: dict[str, str] = Field(default_factory=dict)
    """Regular expressions by name; the report shows the share of responses that match each."""
    metric: str | None = None
    """Import path module:name of a function of (prompt, response, row) that returns a category or a
    number, for the responses to these prompts; row is a dictionary of all columns of data.path. The
    report shows shares or means with 95 % intervals."""
    temperatures: tuple[Annotated[float, Field(ge=0.0)], ...] = ()
    """Temperatures at which the metric is measured; 0 takes the likeliest tokens. Without any,
    rollout.temperature."""
    group_by: str | None = None
    """Column of data.path by whose values the metric is split."""
    best: BestConfig | None = None

    @field_validator("temperatures")
    @classmethod
    def _temperatures_differ_and_are_sampled_at(cls, given: tuple[float, ...]) -> tuple[float, ...]:
        for each in given:
            if 0.0 < each < MIN_TEMPERATURE:
                raise ValueError(
                    f"{each} is too small to sample at; give 0 for the likeliest tokens, or at "
                    f"least {MIN_TEMPERATURE}"
                )
        if len({f"{each:g}" for each in given}) < len(given):
            raise ValueError("has a temperature twice; give each once")
        return given

    @model_validator(mode="after")
    def _a_metric_is_measured(self) -> Self:
        if self.metric is None and (self.temperatures or self.group_by or self.best):
            raise ValueError(
                "evaluation.temperatures, group_by and best belong to evaluation.metric, which is "
                "missing; set it, or leave them out"
            )
        return self


WORKER_KINDS = ("rollout", "discriminator", "teacher", "reward", "learner")


LabelValue = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")]
"""A value of a node label, as Ray allows it."""


class PlacementConfig(FrozenConfig):
    """Placement of the workers on the cluster, and their timeouts."""

    phases_share_cpus: bool = False
    """Whether sampling, scoring and learning share the same cores, one after the other, as suits a
    small machine. A worker then reserves almost none of the CPUs that it computes with."""
    timeout_s: float = Field(600.0, gt=0.0)
    """Timeout of a worker's start and of each request to it, in seconds. After it the worker is
    replaced and the request is retried."""
    when_full: Literal["fail", "wait"] = "fail"
    """If the cluster lacks free resources for the workers: fail with an error that names what is
    missing, or wait for it."""
    lease_s: float | None = Field(None, gt=0.0)
    """Time in seconds without a request for the run's status after which the run stops with a
    checkpoint, because its job process is gone. None never stops it."""
    node_labels: dict[str, dict[str, LabelValue]] = Field(default_factory=dict)
    """Labels that a node must have, by kind of worker (rollout, discriminator, teacher, reward,
    learner). Other kinds run on any node."""

    @field_validator("node_labels")
    @classmethod
    def _kinds_are_known(
        cls, labels: dict[str, dict[str, LabelValue]]
    ) -> dict[str, dict[str, LabelValue]]:
        for kind in sorted(labels.keys() - set(WORKER_KINDS)):
            close = get_close_matches(kind, WORKER_KINDS, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise ValueError(
                f"unknown kind of worker {kind!r}; {hint}choose among {', '.join(WORKER_KINDS)}"
            )
        return labels


class AutoscaleConfig(FrozenConfig):
    """Autoscaling: the number of rollout workers follows the times of sampling and learning."""

    min_workers: int = Field(1, gt=0)
    """Minimum number of rollout workers."""
    max_workers: int = Field(gt=0)
    """Maximum number of rollout workers."""


class RunConfig(FrozenConfig):
    """Everything needed to start or resume a run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    """Name of the run directory and of the run's actors on the cluster."""
    seed: int = 0
    """Seed of every random choice."""
    model: ModelConfig
    data: DataConfig
    sft: SftConfig = SftConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    rollout: RolloutConfig = RolloutConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    teacher: TeacherConfig | None = None
    rewards: tuple[RewardConfig, ...] = ()
    preferences: PreferencesConfig | None = None
    reward_model: RewardModelConfig | None = None
    learner: LearnerConfig = LearnerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    placement: PlacementConfig = PlacementConfig()
    autoscale: AutoscaleConfig | None = None
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ("tensorboard",)
    """Experiment trackers that get the metrics of each step in addition to metrics.jsonl; mlflow
    and wandb must be installed."""

    @model_validator(mode="after")
    def _a_group_fits_a_microbatch(self) -> Self:
        prompt, response = self.data.max_prompt_tokens, self.data.max_response_tokens
        is_self_play = self.preferences is not None and self.preferences.is_self_play
        num_responses = self.objective.group_size + is_self_play  # and the demonstration
        needed = prompt + num_responses * response
        limit = self.learner.max_tokens_per_microbatch
        if self.objective.steps and needed > limit:
            raise ValueError(
                f"a prompt and its group take up to {prompt} + {num_responses} x "
                f"{response} = {needed} tokens, more than learner.max_tokens_per_microbatch = "
                f"{limit}; raise that, or lower objective.group_size or data.max_response_tokens"
            )
        return self

    @model_validator(mode="after")
    def _there_is_something_to_learn_from(self) -> Self:
        if self.objective.steps and not self.has_policy_gradient and not self.preferences:
            raise ValueError(
                "objective.divergence_weight is 0 and there are neither rewards nor preferences; "
                "give one of them, or set objective.steps to 0"
            )
        if self.data.path is None and (not self.preferences or self.preferences.path is None):
            raise ValueError(
                "data.path is missing; set it, or preferences.path to train on its best responses"
            )
        if self.ranks_rollouts and not self.rewards:
            raise ValueError(
                "preferences.path is missing, and there are no rewards to compare the policy's own "
                "responses by; give one of them, or choose preferences.objective: self_play (SPIN)"
            )
        sft_weight = self.preferences.parameters.sft_weight if self.preferences else 0.0
        if sft_weight and self.objective.demonstrations_weight:
            raise ValueError(
                f"preferences.parameters.sft_weight = {sft_weight:g} and "
                f"objective.demonstrations_weight = {self.objective.demonstrations_weight:g} weigh "
                "the same loss; set one of them"
            )
        teaches = self.preferences.teaches if self.preferences else "policy"
        if teaches == "discriminator" and self.objective.steps and not self.has_discriminator:
            raise ValueError(
                "preferences.teaches is discriminator, but the run has no discriminator; set "
                "objective.divergence_weight above 0 and no teacher, or teaches: policy"
            )
        if self.objective.level == "state" and self.teacher is None:
            raise ValueError(
                "objective.level: state compares full next-token distributions, so the expert must "
                "be a model; set teacher.model, or another level"
            )
        if self.objective.on_policy_fraction < 1.0 and self.rewards:
            raise ValueError(
                f"objective.on_policy_fraction = {self.objective.on_policy_fraction} and rewards "
                "exclude each other: rewards need the policy's own samples; set it to 1"
            )
        return self

    @model_validator(mode="after")
    def _the_columns_have_rows(self) -> Self:
        if self.evaluation.group_by is not None and self.data.path is None:
            raise ValueError(
                "evaluation.group_by names a column of data.path, which is missing; set it, or "
                "leave the groups out"
            )
        if self.data.discriminator_context is None:
            return self
        if self.data.path is None:
            raise ValueError(
                "data.discriminator_context names a column of data.path, which is missing; set it, "
                "or leave the context out"
            )
        if self.preferences is not None and self.preferences.teaches == "discriminator":
            raise ValueError(
                "preferences.teaches is discriminator, and preferences have no "
                "data.discriminator_context; leave one of the two out"
            )
        return self

    @property
    def has_policy_gradient(self) -> bool:
        """Whether stage 2 trains on rewards of the policy's own responses."""
        is_rewarded = len(self.rewards) > 0 and not self.ranks_rollouts
        return self.objective.steps > 0 and (self.objective.divergence_weight > 0 or is_rewarded)

    @property
    def ranks_rollouts(self) -> bool:
        """Whether rewards only rank the policy's own responses, as preferences."""
        return self.preferences is not None and self.preferences.ranks_rollouts

    @property
    def has_rollouts(self) -> bool:
        """Whether stage 2 samples responses."""
        compares_rollouts = self.preferences is not None and self.preferences.compares_rollouts
        return self.has_policy_gradient or (compares_rollouts and self.objective.steps > 0)

    @property
    def demonstrations_weight(self) -> float:
        """Weight of the likelihood of demonstrations in the loss of stage 2."""
        sft_weight = self.preferences.parameters.sft_weight if self.preferences else 0.0
        return self.objective.demonstrations_weight or sft_weight

    @property
    def has_reference(self) -> bool:
        """Whether stage 2 keeps a copy of the policy as the reference."""
        has_log_ratios = self.preferences is not None and self.preferences.teaches == "policy"
        return self.objective.reference.coefficient > 0 or has_log_ratios

    @property
    def num_snapshots(self) -> int:
        """Number of copies of earlier policies that a learner rank keeps.

        By them it corrects a discriminator's logits for what the policy has moved since.
        """
        is_log_ratio = self.objective.divergence != "wasserstein"
        is_corrected = self.has_discriminator and is_log_ratio
        return self.objective.max_staleness_steps if is_corrected else 0

    @property
    def has_teacher(self) -> bool:
        """Whether the run starts teacher workers."""
        return self.teacher is not None and self.objective.steps > 0

    @property
    def has_discriminator(self) -> bool:
        """Whether the run trains a discriminator, because only demonstrations define the expert."""
        wants_divergence = self.objective.steps > 0 and self.objective.divergence_weight > 0
        return wants_divergence and self.teacher is None

    @property
    def warm_up_end(self) -> int:
        """Steps of SFT and of the discriminator's warm-up, which may end earlier."""
        return self.sft.steps + self.discriminator.warm_up_steps * self.has_discriminator

    @property
    def num_iterations(self) -> int:
        """Steps of the whole run at most, the discriminator's warm-up included."""
        return self.warm_up_end + self.objective.steps


def data_paths(config: RunConfig) -> dict[str, Path]:
    """Return the files and folders that a job reads its data from, by section."""
    named = {"data": config.data.path}
    if config.preferences:
        named["preferences"] = config.preferences.path
    return {section: path for section, path in named.items() if isinstance(path, Path)}


def import_paths(config: RunConfig) -> dict[str, str]:
    """Return the import paths module:name in a job, by setting."""
    named = {
        f"rewards.{index}.function": source.function
        for index, source in enumerate(config.rewards)
        if source.function
    }
    if config.evaluation.metric:
        named["evaluation.metric"] = config.evaluation.metric
    divergences = {"objective.divergence": config.objective.divergence}
    if config.preferences:
        divergences["preferences.divergence"] = config.preferences.divergence
    named |= {setting: name for setting, name in divergences.items() if ":" in name}
    return named
