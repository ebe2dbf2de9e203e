"""The preferences section of a job file."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Field, model_validator

from actors.config.choices import (
    DataSource,
    DivergenceParameters,
    FrozenConfig,
    divergence_name,
    parameter_problems,
)

LikelihoodName = Literal[
    "bradley_terry",
    "margin",
    "thurstone",
    "learned_variance",
    "rao_kupper",
    "davidson",
    "plackett_luce",
    "classification",
]
DirectName = Literal["identity", "kahneman_tversky", "self_play"]
"""Objectives of the policy that are not a likelihood of the label."""

TAKEN_BY: Mapping[str, tuple[str, ...]] = {
    "margin": ("margin_per_strength",),
    "thurstone": ("scale",),
    "rao_kupper": ("threshold",),
    "davidson": ("tie_weight",),
    "kahneman_tversky": ("desirable_weight", "undesirable_weight"),
}
"""Parameters of an objective, by the names that alignment.preferences gives them."""
SMOOTHED = ("bradley_terry", "thurstone", "rao_kupper", "davidson", "classification")
"""Objectives that take parameters.label_smoothing: the share of pairs with the wrong label."""
TAKE_TIES = ("identity", "rao_kupper", "davidson")
"""Objectives that learn from a tie."""
FOR_REWARD_MODELS = {
    "learned_variance": "a noise of each response",
    "margin": "the strength of each preference",
}
"""Likelihoods that need more than rewards and ranks, which are all that stage 2 has."""


class PreferenceParameters(FrozenConfig):
    """Parameters of preferences.objective; one that it does not take must keep its default."""

    beta: float = Field(0.1, gt=0.0)
    """Reward of one nat of log(policy / reference). Only with teaches: policy."""
    label_smoothing: float = Field(0.0, ge=0.0, lt=0.5)
    """Share of labels that are wrong. For bradley_terry (conservative DPO), thurstone, rao_kupper,
    davidson and classification."""
    weight: float = Field(1.0, ge=0.0)
    """Weight of the preferences in the loss of a step."""
    sft_weight: float = Field(0.0, ge=0.0)
    """Weight of the negative log-likelihood of demonstrations in the loss of the same step."""
    margin_per_strength: float = Field(1.0, ge=0.0)
    """margin: nats that the difference of rewards must reach at strength 1."""
    scale: float = Field(1.0, gt=0.0)
    """thurstone: standard deviation of the noise of one response."""
    threshold: float = Field(3.0, gt=1.0)
    """rao_kupper: its logarithm is the difference of rewards below which ties are likely; at 3 two
    equal responses tie half of the time."""
    tie_weight: float = Field(1.0, gt=0.0)
    """davidson: odds of a tie between equal responses; at 1 they tie a third of the time."""
    desirable_weight: float = Field(1.0, ge=0.0)
    """kahneman_tversky: weight of each desirable response in the loss."""
    undesirable_weight: float = Field(1.0, ge=0.0)
    """kahneman_tversky: weight of each undesirable response in the loss."""


class PreferencesConfig(FrozenConfig):
    """Preferences between responses: stage 2 trains on them with the divergence, or alone.

    With a path, objective.divergence_weight 0 and no rewards, no responses are sampled.
    """

    path: DataSource | None = None
    """Pairs, ties, rankings or labels of single responses, in any format that `irlign check`
    detects: a file or folder relative to the job file, or hub:owner/name. Without it the policy's
    own responses are ranked by the job's rewards (online DPO); self_play needs neither."""
    teaches: Literal["policy", "discriminator"] = "policy"
    """Model that the preferences train. policy: the reward is its log-ratio to the reference, as in
    DPO. discriminator: the reward is its logit, so one reward explains demonstrations and
    preferences."""
    objective: LikelihoodName | DirectName = "bradley_terry"
    """Likelihood of a label given the rewards, or loss. For the policy bradley_terry is DPO,
    identity IPO, kahneman_tversky KTO; rao_kupper and davidson take ties, plackett_luce rankings.
    self_play (SPIN) prefers each demonstration to the policy's own responses; its reference is the
    policy of an epoch ago."""
    divergence: Annotated[str, AfterValidator(divergence_name)] = "reverse_kl"
    """Divergence between reference and policy that the implicit reward regularizes by (f-DPO)."""
    divergence_parameters: DivergenceParameters = DivergenceParameters()
    parameters: PreferenceParameters = PreferenceParameters()

    @model_validator(mode="after")
    def _choices_agree(self) -> Self:
        for problem in self._disagreements():
            raise ValueError(problem)
        return self

    def _disagreements(self) -> Iterator[str]:
        if self.teaches == "discriminator":
            yield from self._of_discriminators()
        if self.is_self_play and self.path is not None:
            yield (
                f"preferences.path is {self.path}, but self_play takes no preference data: it "
                "prefers demonstrations to the policy's own responses; leave the path out, or "
                "choose bradley_terry"
            )
        if self.objective in get_args(DirectName) and self.divergence != "reverse_kl":
            yield (
                f"preferences.divergence is {self.divergence}, but {self.objective} is derived for "
                "reverse_kl only; leave it out, or choose bradley_terry"
            )
        yield from self._of_parameters()
        yield from parameter_problems("preferences", self.divergence, self.divergence_parameters)

    def _of_parameters(self) -> Iterator[str]:
        """Yield a problem for each parameter that is set and not taken."""
        taken = ["weight", "sft_weight", *TAKEN_BY.get(self.objective, ())]
        taken += ["beta"] if self.teaches == "policy" else []
        taken += ["label_smoothing"] if self.objective in SMOOTHED else []
        for name, field in PreferenceParameters.model_fields.items():
            value = getattr(self.parameters, name)
            if name not in taken and value != field.default:
                yield (
                    f"preferences.parameters.{name} is {value}, but objective {self.objective} "
                    f"with teaches {self.teaches} takes only {', '.join(sorted(taken))}; leave it "
                    "out"
                )

    def _of_discriminators(self) -> Iterator[str]:
        if self.divergence != "reverse_kl":
            yield (
                f"preferences.divergence is {self.divergence}, which defines the implicit reward "
                "of a policy, but preferences.teaches is discriminator, whose logit is the reward; "
                "leave it out"
            )
        if self.objective in get_args(DirectName):
            yield (
                f"preferences.objective: {self.objective} is an objective of the policy, and "
                "preferences.teaches is discriminator; choose bradley_terry, or teaches: policy"
            )
        if self.path is None:
            yield (
                "preferences.path is missing; with teaches: discriminator the preferences must "
                "come from data, because a discriminator already learns to prefer demonstrations "
                "to the policy's responses; set it, or choose teaches: policy"
            )

    @property
    def objective_parameters(self) -> dict[str, float]:
        """The parameters of the objective alone, by name."""
        return {name: getattr(self.parameters, name) for name in TAKEN_BY.get(self.objective, ())}

    @property
    def is_self_play(self) -> bool:
        """Whether demonstrations are preferred to the policy's own responses."""
        return self.objective == "self_play"

    @property
    def compares_rollouts(self) -> bool:
        """Whether the policy's own responses are compared, with one another or the expert's."""
        return self.path is None

    @property
    def ranks_rollouts(self) -> bool:
        """Whether rewards rank the policy's own responses; the rewards then do nothing else."""
        return self.compares_rollouts and not self.is_self_play
