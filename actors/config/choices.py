"""The values that several sections of a job file share."""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

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
"""Divergences for objective.level: state, which compares two full next-token distributions."""


UNBOUND_DIVERGENCES = ("fairl", "wasserstein")
"""Divergences without a convex generator f: they are defined by a reward or a critic alone."""


PARAMETER_OF: Mapping[str, str] = {
    "alpha": "alpha",
    "generalized_js": "beta",
    "skew_forward_kl": "skew",
    "skew_reverse_kl": "skew",
}
"""Name of the parameter of each divergence that has one."""


DataSource = Annotated[str, Field(pattern=r"^hub:[\w.-]+/")] | Path
"""A hub name, or a file or folder."""


LARGEST_LEARNING_RATE = 0.1
"""AdamW moves a weight by about the rate at each step, and those of language models are 0.01 to 1:
a larger rate replaces the model by noise within a few steps."""


def learning_rate_in_range(rate: float) -> float:
    """Return a learning rate that AdamW can use.

    Raises:
        ValueError: if it is not positive, or larger than LARGEST_LEARNING_RATE.
    """
    if not 0.0 < rate <= LARGEST_LEARNING_RATE:
        raise ValueError(
            f"a learning rate of {rate:g} is not between 0 and {LARGEST_LEARNING_RATE}; AdamW "
            "moves each weight by about the rate at each step; 1e-6 to 1e-3 is usual"
        )
    return rate


LearningRate = Annotated[float, AfterValidator(learning_rate_in_range)]
"""A learning rate of AdamW: more than 0, at most LARGEST_LEARNING_RATE."""


Level = Literal["trajectory", "token", "occupancy", "state"]


DiscriminatorLoss = Literal["cross_entropy", "pairwise", "variational", "least_squares"]


def divergence_name(name: str) -> str:
    """Return a divergence's name, if it is in DivergenceName or is an import path module:function.

    Raises:
        ValueError: if it is neither; the nearest name is suggested.
    """
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
    """Base class of the sections of a job file: immutable; an unknown setting is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class DivergenceParameters(FrozenConfig):
    """Parameters of a divergence: the one that it takes is required, any other is an error."""

    alpha: float | None = None
    """alpha: order, any finite number; 0 is reverse_kl, 1 is forward_kl."""
    beta: float | None = Field(None, ge=0.0, le=1.0)
    """generalized_js: weight of the expert in the mixture; 0 is forward_kl, 1 is reverse_kl."""
    skew: float | None = Field(None, ge=0.0, lt=1.0)
    """skew_forward_kl and skew_reverse_kl: weight of the first distribution in the mixture that
    replaces the second one; 0 is the KL divergence."""

    def given(self) -> dict[str, float]:
        """Return the parameters that are set, by name."""
        return {name: value for name, value in self if value is not None}


def parameter_problems(section: str, divergence: str, given: DivergenceParameters) -> Iterator[str]:
    """Yield a problem for each parameter that a divergence lacks or does not take."""
    needed = PARAMETER_OF.get(divergence)
    for name, value in given.given().items():
        if name != needed:
            yield (
                f"{section}.divergence_parameters.{name} is {value}, but {divergence} takes "
                f"{needed or 'no parameter'}; leave it out"
            )
    if needed is not None and getattr(given, needed) is None:
        yield (
            f"{section}.divergence: {divergence} needs the parameter {needed}; set "
            f"{section}.divergence_parameters.{needed}, such as 0.5"
        )
