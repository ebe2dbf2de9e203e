"""Functions that a job file names by an import path module:name."""

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from actors.errors import InvalidInputError


def import_function(
    path: str, kind: str, parameters: Sequence[str], examples: Sequence[object], returns: str
) -> Callable[..., Any]:
    """Import a plain function that takes these parameters.

    Args:
        path: module:name.
        kind: what the function is, for errors, such as "reward function".
        parameters: their names, for errors.
        examples: a value of each parameter.
        returns: what the function returns, for errors.

    Raises:
        InvalidInputError: if it cannot be imported, is asynchronous, or takes other parameters.
    """
    module_name, _, name = path.partition(":")
    try:
        function: Any = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidInputError(
            f"{kind} {path!r} cannot be imported: {error}; write it as module:name, and "
            f"put the module where Python finds it"
        ) from error
    listed = ", ".join(parameters)
    if not callable(function):
        raise InvalidInputError(
            f"{kind} {path!r} is a {type(function).__name__}, which cannot be called; "
            f"name a function of ({listed})"
        )
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(function.__call__):
        raise InvalidInputError(
            f"{kind} {path!r} is asynchronous; name a plain function that returns {returns}"
        )
    try:
        inspect.signature(function).bind(*examples)
    except TypeError as error:
        raise InvalidInputError(
            f"{kind} {path!r} is called with ({listed}), and its parameters do not take them: "
            f"{error}"
        ) from error
    except ValueError:  # some built-in functions have no signature to look at
        pass
    imported: Callable[..., Any] = function
    return imported
