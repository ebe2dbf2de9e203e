"""All preference likelihoods by name. To add one, write a function for its record and list it."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from inspect import signature

from torch import Tensor

from alignment.preferences.bradley_terry import bradley_terry, margin
from alignment.preferences.classification import classification
from alignment.preferences.gaussian import learned_variance, thurstone
from alignment.preferences.plackett_luce import plackett_luce
from alignment.preferences.record import PreferenceLikelihood
from alignment.preferences.ties import davidson, rao_kupper

PREFERENCE_LIKELIHOODS: Mapping[str, Callable[..., PreferenceLikelihood]] = {
    "bradley_terry": bradley_terry,
    "margin": margin,
    "thurstone": thurstone,
    "learned_variance": learned_variance,
    "rao_kupper": rao_kupper,
    "davidson": davidson,
    "plackett_luce": plackett_luce,
    "classification": classification,
}
"""Name to the function that returns the record; its arguments are the likelihood's parameters."""


def preference_likelihood(name: str, **parameters: float | Tensor) -> PreferenceLikelihood:
    """Look up a preference likelihood by name.

    Args:
        parameters: all that the likelihood's own function takes.

    Raises:
        ValueError: if there is no such likelihood, or a parameter is missing, unknown or out of
            its range.
    """
    if name not in PREFERENCE_LIKELIHOODS:
        close = get_close_matches(name, PREFERENCE_LIKELIHOODS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ValueError(
            f"unknown preference likelihood {name!r}; {hint}choose one of "
            f"{', '.join(PREFERENCE_LIKELIHOODS)}"
        )
    make = PREFERENCE_LIKELIHOODS[name]
    accepted = tuple(signature(make).parameters)
    if unknown := sorted(parameters.keys() - set(accepted)):
        raise ValueError(
            f"{name} has no parameter {unknown}; it accepts: {', '.join(accepted) or 'none'}"
        )
    if missing := sorted(set(accepted) - parameters.keys()):
        raise ValueError(f"{name} needs the parameter {missing[0]}")
    return make(**parameters)
