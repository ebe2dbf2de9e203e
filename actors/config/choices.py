"""The values that several sections of a job file share."""

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

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
