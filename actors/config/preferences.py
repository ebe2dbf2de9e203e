"""What a run is told of preferences. Imports no torch, so that checking a job is instant."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Field, model_validator

from actors.config.choices import DataSource, FrozenConfig, divergence_name

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
"""Objectives of the policy that are no likelihood of an answer."""

DEFAULTS: Mapping[str, float] = {
    "beta": 0.1,
    "label_smoothing": 0.0,
    "weight": 1.0,
    "demonstrations": 0.0,
}
"""Parameters that every objective has."""
OF_OBJECTIVE: Mapping[str, Mapping[str, float]] = {
    "margin": {"margin_per_strength": 1.0},
    "thurstone": {"scale": 1.0},
    "rao_kupper": {"threshold": 3.0},
    "davidson": {"tie_weight": 1.0},
    "kahneman_tversky": {"desirable_weight": 1.0, "undesirable_weight": 1.0},
}
"""Further parameters, those of alignment.preferences under their names there. A tie between equals
has a chance of one half by rao_kupper's default, of one third by davidson's."""
MUST_EXCEED: Mapping[str, float] = {"beta": 0.0, "scale": 0.0, "threshold": 1.0, "tie_weight": 0.0}
"""At the bound every answer would be as likely, or a tie impossible."""
OF_DIVERGENCE = ("alpha", "skew")
FOR_POLICIES = ("beta", *OF_DIVERGENCE)
"""What no discriminator takes."""
SMOOTHED = ("bradley_terry", "thurstone", "rao_kupper", "davidson", "classification")
"""Objectives for which a pair can have been noted down the wrong way round."""
TAKE_TIES = ("identity", "rao_kupper", "davidson")
"""Objectives that learn from a tie."""
FOR_REWARD_MODELS = {
    "learned_variance": "a noise of each response",
    "margin": "the strength of each preference",
}
"""Likelihoods that want more than rewards and ranks, which are all that stage 2 has."""


class PreferencesConfig(FrozenConfig):
    """Whose responses are better: stage 2 learns it beside the demonstrations, or instead of them.

    Its weight beside objective.divergence_weight and rewards is parameters.weight; with
    objective.divergence_weight 0 and no rewards, nothing is sampled.
    """

    path: DataSource | None = None
    """Pairs, ties, rankings or single verdicts, in any format that `irlign check` detects; relative
    to the job file, or hub:owner/name. None: the policy's own responses are compared, best with
    worst of a prompt, by the job's rewards (online DPO); self_play needs neither."""
    teaches: Literal["policy", "discriminator"] = "policy"
    """policy: its log-ratio to the reference is the reward (DPO and its like). discriminator: its
    logit learns them too, so that one reward explains demonstrations and preferences."""
    objective: LikelihoodName | DirectName = "bradley_terry"
    """Which answers a difference of rewards makes likely. For the policy bradley_terry is DPO,
    identity IPO, kahneman_tversky KTO; rao_kupper and davidson know ties, plackett_luce orders.
    self_play (SPIN) prefers each demonstration to the policy's own responses, and its reference is
    the policy of an epoch ago."""
    divergence: Annotated[str, AfterValidator(divergence_name)] = "reverse_kl"
    """From reference to policy: what the policy's reward keeps small (f-DPO)."""
    parameters: dict[str, float] = Field(default_factory=dict)
    """beta (0.1): reward of a nat of the log-ratio. label_smoothing (0): share of answers that are
    wrong. weight (1): in the loss. demonstrations (0): weight of their negative log-likelihood in
    the same step. And what objective and divergence take: threshold, tie_weight, scale, alpha."""

    @model_validator(mode="after")
    def _choices_agree(self) -> Self:
        for problem in self._disagreements():
            raise ValueError(problem)
        return self

    def _disagreements(self) -> Iterator[str]:
        yield from self._of_parameters()
        if self.teaches == "discriminator":
            yield from self._of_discriminators()
        if self.is_self_play and self.path is not None:
            yield (
                f"preferences.path is {self.path}, but self_play takes no answers: it prefers "
                "demonstrations to the policy's own responses; leave the path out, or choose "
                "bradley_terry"
            )
        if self.objective in get_args(DirectName) and self.divergence != "reverse_kl":
            yield (
                f"preferences.divergence is {self.divergence}, but {self.objective} is derived for "
                "reverse_kl alone; leave it out, or choose bradley_terry"
            )

    def _of_parameters(self) -> Iterator[str]:
        known = [*DEFAULTS, *OF_OBJECTIVE.get(self.objective, ()), *OF_DIVERGENCE]
        for name in sorted(self.parameters.keys() - set(known)):
            yield f"preferences.parameters: there is no {name}; here are {', '.join(known)}"
        for name, value in self.parameters.items():
            if name in MUST_EXCEED and value <= MUST_EXCEED[name]:
                yield (
                    f"preferences.parameters.{name} is {value}; it must be more than "
                    f"{MUST_EXCEED[name]:g}"
                )
            if name not in (*MUST_EXCEED, *OF_DIVERGENCE) and value < 0.0:
                yield (
                    f"preferences.parameters.{name} is {value}; it must be at least 0: below it "
                    "the opposite would be learned"
                )
        if not 0.0 <= self.parameter("label_smoothing") < 0.5:
            yield (
                f"preferences.parameters.label_smoothing is {self.parameter('label_smoothing')}; "
                "it must be at least 0 and less than 0.5, a coin's answers"
            )
        if self.parameter("label_smoothing") and self.objective not in SMOOTHED:
            yield (
                f"preferences.parameters.label_smoothing is {self.parameter('label_smoothing')}, "
                f"but {self.objective} is no likelihood of a pair's answer; make it 0, or take "
                "bradley_terry"
            )

    def _of_discriminators(self) -> Iterator[str]:
        unused = [name for name in FOR_POLICIES if name in self.parameters]
        unused += ["divergence"] if self.divergence != "reverse_kl" else []
        if unused:
            yield (
                f"preferences: {', '.join(unused)} would shape a policy's implicit reward, but "
                "teaches is discriminator, whose logit is the reward; leave it out"
            )
        if self.objective in get_args(DirectName):
            yield (
                f"preferences.objective: {self.objective} is an objective of the policy, and "
                "preferences.teaches is discriminator; choose bradley_terry, or teaches: policy"
            )
        if self.path is None:
            yield (
                "preferences.path is missing; a discriminator that learns preferences needs some, "
                "for demonstrations against the policy's responses are what it learns anyway"
            )

    def parameter(self, name: str) -> float:
        """Return a parameter that every objective has."""
        return self.parameters.get(name, DEFAULTS[name])

    @property
    def objective_parameters(self) -> dict[str, float]:
        """What the objective's likelihood takes."""
        defaults = OF_OBJECTIVE.get(self.objective, {})
        return {name: self.parameters.get(name, value) for name, value in defaults.items()}

    @property
    def divergence_parameters(self) -> dict[str, float]:
        """What the divergence takes."""
        return {name: self.parameters[name] for name in OF_DIVERGENCE if name in self.parameters}

    @property
    def is_self_play(self) -> bool:
        """Whether the policy is compared with the demonstrations."""
        return self.objective == "self_play"

    @property
    def compares_rollouts(self) -> bool:
        """Whether the policy's own responses are compared, with one another or the expert's."""
        return self.path is None

    @property
    def ranks_rollouts(self) -> bool:
        """Whether they are compared with one another, by the rewards, which do nothing else."""
        return self.compares_rollouts and not self.is_self_play
