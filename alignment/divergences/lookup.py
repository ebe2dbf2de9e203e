"""All divergences by name. To add one, write a function that returns its record and list it here.

A name with a colon, module:function, is the import path of a convex generator of the user.
"""

import functools
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from inspect import signature

from alignment.divergences.custom import custom
from alignment.divergences.kullback_leibler import forward_kl, jeffreys, reverse_kl
from alignment.divergences.labelled import fairl, log_d, wasserstein
from alignment.divergences.mixtures import (
    generalized_js,
    jensen_shannon,
    le_cam,
    skew_forward_kl,
    skew_reverse_kl,
)
from alignment.divergences.powers import alpha, neyman_chi2, pearson_chi2, squared_hellinger
from alignment.divergences.record import Divergence
from alignment.divergences.total_variation import total_variation

LABELLED: Mapping[str, Callable[..., Divergence]] = {
    "log_d": log_d,
    "fairl": fairl,
    "wasserstein": wasserstein,
}
"""Rewards that are often mistaken for another divergence; the caveat of each says what it is."""
DIVERGENCES: Mapping[str, Callable[..., Divergence]] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jensen_shannon": jensen_shannon,
    "jeffreys": jeffreys,
    "alpha": alpha,
    "squared_hellinger": squared_hellinger,
    "pearson_chi2": pearson_chi2,
    "neyman_chi2": neyman_chi2,
    "total_variation": total_variation,
    "generalized_js": generalized_js,
    "skew_forward_kl": skew_forward_kl,
    "skew_reverse_kl": skew_reverse_kl,
    "le_cam": le_cam,
    **LABELLED,
}
"""Name to the function that returns the record; its arguments are the divergence's parameters."""


def divergence(name: str, **parameters: float) -> Divergence:
    """Look up a divergence by name, or import one.

    Args:
        name: a key of DIVERGENCES, or "module:function", a convex generator f(u) of the user on
            tensors.
        parameters: all that the divergence's own function takes; an imported one takes none.

    Raises:
        ValueError: if there is no such divergence, a parameter is missing, unknown or out of its
            range, or an imported function is not a convex generator.
    """
    if ":" in name:
        _require_parameters(name, (), parameters)
        return custom(name)
    if name not in DIVERGENCES:
        close = get_close_matches(name, DIVERGENCES, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ValueError(
            f"unknown divergence {name!r}; {hint}choose one of {', '.join(DIVERGENCES)}, or name "
            "a convex function of your own as module:function"
        )
    make = DIVERGENCES[name]
    _require_parameters(name, tuple(signature(make).parameters), parameters)
    return make(**parameters)


def _require_parameters(name: str, accepted: tuple[str, ...], given: Mapping[str, float]) -> None:
    unknown = sorted(given.keys() - set(accepted))
    if unknown:
        raise ValueError(
            f"{name} has no parameter {unknown}; it accepts: {', '.join(accepted) or 'none'}"
        )
    missing = [parameter for parameter in accepted if parameter not in given]
    if missing:
        raise ValueError(
            f"{name} needs the parameter {missing[0]}; give it in divergence_parameters, such as "
            f"{{{missing[0]}: 0.5}}"
        )


@functools.cache
def divergence_record(name: str, parameters: tuple[tuple[str, float], ...]) -> Divergence:
    """Return a cached record: a function of the user is imported and checked once."""
    return divergence(name, **dict(parameters))
