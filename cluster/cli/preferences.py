"""What irlign preferences shows, and the table of the README's section on preferences."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from textwrap import fill
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from actors.config.preferences import (
    FOR_REWARD_MODELS,
    SMOOTHED,
    TAKEN_BY,
    PreferenceParameters,
)
from actors.errors import InvalidInputError
from alignment.preferences.direct_objectives import DIRECT, KNOWN_AS, LEGEND, DirectObjective
from alignment.preferences.lookup import PREFERENCE_LIKELIHOODS, preference_likelihood
from alignment.preferences.record import PreferenceLikelihood


def preferences(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show all of one.")] = None,
) -> None:
    """List the objectives that preferences can have, or all that is known of one."""
    pass

    try:
        show(Console(), name)
    except ValueError as error:  # no such objective
        raise InvalidInputError(str(error)) from error


LINE_WIDTH = 100
"""Of the README."""


NAMES = (*PREFERENCE_LIKELIHOODS, *(objective.name for objective in DIRECT))


def show(console: Console, name: str | None) -> None:
    """Print all objectives of preferences, or all that is known of one.

    Args:
        name: one of NAMES; None prints the list.

    Raises:
        ValueError: if there is no such objective.
    """
    console.print(_overview() if name is None else _details(_record(name)))
    console.print(LEGEND, highlight=False)
    if name is None:
        console.print("All of one: irlign preferences NAME", highlight=False)


def markdown() -> str:
    """Return the README's table of what preferences.objective can be, and the legend under it."""
    columns = ("`preferences.objective`", "known as", "chance of the answer, or loss")
    rows = [(*columns, "answers", "for"), ("---",) * 5]
    for record in map(_record, NAMES):
        name, formula = f"`{record.name}`", f"`{record.formula}`"
        rows.append((name, KNOWN_AS.get(record.name, ""), formula, *_uses(record)))
    return "\n".join(_line(row) for row in rows) + f"\n\n{fill(LEGEND, LINE_WIDTH)}"


def _record(name: str) -> PreferenceLikelihood | DirectObjective:
    """Look up an objective; the values of its parameters do not change what is said of it."""
    for objective in DIRECT:
        if objective.name == name:
            return objective
    if name in PREFERENCE_LIKELIHOODS:
        return preference_likelihood(name, **_defaults(TAKEN_BY.get(name, ())))
    meant = {known.lower(): each for each, known in KNOWN_AS.items()} | {
        each: each for each in NAMES
    }
    close = get_close_matches(name.lower(), meant, n=1)
    hint = f"did you mean {meant[close[0]]}? " if close else ""
    raise ValueError(
        f"unknown objective of preferences {name!r}; {hint}choose one of {', '.join(NAMES)}"
    )


def _uses(record: PreferenceLikelihood | DirectObjective) -> tuple[str, str]:
    """Return which answers an objective takes, and what can be trained by it."""
    name = record.name
    is_likelihood, is_of_rewards = name in PREFERENCE_LIKELIHOODS, name not in FOR_REWARD_MODELS
    learners = {
        "policy": is_of_rewards,
        "discriminator": is_likelihood and is_of_rewards,
        "reward model": is_likelihood,
    }
    return ", ".join(record.takes), ", ".join(who for who, can in learners.items() if can)


def _overview() -> Table:
    table = Table("name", "known as", "answers", "for", "behavior")
    for record in map(_record, NAMES):
        cells = (record.name, KNOWN_AS.get(record.name, ""), *_uses(record), record.behavior)
        table.add_row(*cells, end_section=True)
    return table


def _details(record: PreferenceLikelihood | DirectObjective) -> Table:
    name, is_likelihood = record.name, isinstance(record, PreferenceLikelihood)
    answers, learners = _uses(record)
    is_learned = is_likelihood and "ties" in record.takes
    rows = {
        "known as": KNOWN_AS.get(name),
        "chance of the answer" if is_likelihood else "loss of the answer": record.formula,
        "answers": answers,
        "for": learners,
        "needs": FOR_REWARD_MODELS.get(name),
        "parameters": record.parameters or "none of its own",
        "by default": _settings(_defaults(TAKEN_BY.get(name, ()))),
        "reward models": "learn the share of ties" if is_learned else None,
        "and in stage 2": _settings(_shared(name)),
        "behavior": record.behavior,
        "choose it when": record.choose_when,
        "avoid it when": record.avoid_when,
        "caveat": record.caveat,
    }
    table = Table(show_header=False, title=name, title_justify="left", box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for label, text in rows.items():
        if text:
            table.add_row(label, escape(text))
    return table


def _shared(name: str) -> Mapping[str, float]:
    """Return the parameters of stage 2, with any objective that it can learn by."""
    if name in FOR_REWARD_MODELS:
        return {}
    smoothing = ["label_smoothing"] if name in SMOOTHED else []
    return _defaults(["beta", *smoothing, "weight", "sft_weight"])


def _defaults(names: Iterable[str]) -> dict[str, float]:
    return {name: PreferenceParameters.model_fields[name].default for name in names}


def _settings(values: Mapping[str, float]) -> str:
    return ", ".join(f"{parameter} = {value:g}" for parameter, value in values.items())


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
