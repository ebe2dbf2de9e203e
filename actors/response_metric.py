"""A user's metric of responses: a function of prompt, response and row to a category or a number.

Categories give the share of each, with Wilson's interval; numbers give their mean, with a bootstrap
interval. Imports no torch.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from actors.imported_functions import import_function
from alignment.data.demonstrations import METRIC_NAME
from alignment.intervals import wilson_interval, with_interval

Value = str | float
VALUE = "value"
"""Name of the mean of a metric of numbers, where one of categories has the names of these."""
MAX_CATEGORIES = 12
"""Categories of a metric: more are probably texts."""


class MetricError(ValueError):
    """The function raised, or returned something else than a category or a number."""


class ResponseMetric:
    """Calls the function, and checks what it returns."""

    def __init__(self, path: str) -> None:
        """Import the function.

        Args:
            path: import path module:name.

        Raises:
            InvalidInputError: if it cannot be imported, or takes other parameters.
        """
        self._path = path
        self._function = import_function(
            path,
            "evaluation.metric",
            ("prompt", "response", "row"),
            ("", "", {}),
            "a category or a number",
        )

    def values(
        self, responses: Sequence[tuple[int, str, str]], columns: Sequence[Mapping[str, Any]]
    ) -> list[Value]:
        """Return the value of each response: all categories, or all numbers.

        Args:
            responses: row number, prompt and response.
            columns: [response] the values of its row by key.

        Raises:
            MetricError: naming the row and the response.
        """
        values: list[Value] = []
        for (row, prompt, response), of_row in zip(responses, columns, strict=True):
            place = f"evaluation.metric {self._path}, row {row + 1}, response {response[:60]!r}"
            try:
                value = self._function(prompt, response, dict(of_row))
            except (Exception, SystemExit) as error:  # the user's code may do anything
                raise MetricError(f"{place}: raised {type(error).__name__}: {error}") from error
            values.append(_checked(value, place))
        kinds = {type(value).__name__ for value in values}
        if len(kinds) > 1:
            raise MetricError(
                f"evaluation.metric {self._path} returned categories (text) for some responses and "
                "numbers for others; return one kind"
            )
        return values


def _checked(value: object, place: str) -> Value:
    if isinstance(value, str):
        if not METRIC_NAME.fullmatch(value):
            raise MetricError(
                f"{place}: returned the category {value!r}; the name of a category has letters, "
                "digits, spaces and .:_- only, since it is part of a metric's name"
            )
        return value
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise MetricError(f"{place}: returned {value!r}; return a category (text) or a number")
    return number


def summary(values: Sequence[Value], groups: Sequence[str]) -> dict[str, float]:
    """Return the metrics of values by group.

    Args:
        groups: [value] its group.

    Returns:
        GROUP/num_responses; and for categories GROUP/CATEGORY, the share, for numbers GROUP/value,
        the mean, each with the ends of its 95 % interval as .../low and .../high. Every group has
        every category.

    Raises:
        MetricError: if there are more than MAX_CATEGORIES categories.
    """
    categories = list(Counter(value for value in values if isinstance(value, str)))
    if len(categories) > MAX_CATEGORIES:
        raise MetricError(
            f"evaluation.metric returned {len(categories)} categories, such as "
            f"{categories[0][:60]!r} and {categories[1][:60]!r}; return at most {MAX_CATEGORIES}, "
            "or a number"
        )
    metrics: dict[str, float] = {}
    for group in dict.fromkeys(groups):
        own = [value for value, name in zip(values, groups, strict=True) if name == group]
        metrics[f"{group}/num_responses"] = float(len(own))
        for category in categories:
            count = own.count(category)
            low, high = wilson_interval(count, len(own))
            metrics |= _named(f"{group}/{category}", count / len(own), low, high)
        if not categories:
            mean = with_interval(np.asarray(own, np.float64))
            numbers = (float(mean[key] or 0.0) for key in ("mean", "low", "high"))
            metrics |= _named(f"{group}/{VALUE}", *numbers)
    return metrics


def _named(name: str, value: float, low: float, high: float) -> dict[str, float]:
    return {name: value, f"{name}/low": low, f"{name}/high": high}
