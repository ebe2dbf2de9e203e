"""The command irlign preferences, and the table of its objectives in alignment/README.md."""

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
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Objective. Default: list all.")
    ] = None,
) -> None:
    """List what preferences.objective can be, or describe one objective."""
    try:
        print_objectives(Console(), name)
    except ValueError as error:  # no such objective
        raise InvalidInputError(str(error)) from error


LINE_WIDTH = 100
"""Columns of alignment/README.md."""
NAMES = (*PREFERENCE_LIKELIHOODS, *(objective.name for objective in DIRECT))


def print_objectives(console: Console, name: str | None) -> None:
    """Print the list of preference objectives where name is None, else the description of one."""
    console.print(_overview() if name is None else _details(_record(name)))
    console.print(LEGEND, highlight=False)
    if name is None:
        console.print("More about one: irlign preferences NAME", highlight=False)


def markdown() -> str:
    """Return the table of alignment/README.md, and the legend under it."""
    columns = ("`preferences.objective`", "known as", "probability of the label, or loss")
    rows = [(*columns, "labels", "trains"), ("---",) * 5]
    for record in map(_record, NAMES):
        name, formula = f"`{record.name}`", f"`{record.formula}`"
        rows.append((name, KNOWN_AS.get(record.name, ""), formula, *_uses(record)))
    return "\n".join(_line(row) for row in rows) + f"\n\n{fill(LEGEND, LINE_WIDTH)}"


def _record(name: str) -> PreferenceLikelihood | DirectObjective:
    """Look up an objective. Its description does not depend on the values of its parameters."""
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
        f"unknown preference objective {name!r}; {hint}choose one of {', '.join(NAMES)}"
    )


def _uses(record: PreferenceLikelihood | DirectObjective) -> tuple[str, str]:
    """Return which labels an objective takes, and what it can train."""
    name = record.name
    is_likelihood, is_of_rewards = name in PREFERENCE_LIKELIHOODS, name not in FOR_REWARD_MODELS
    learners = {
        "policy": is_of_rewards,
        "discriminator": is_likelihood and is_of_rewards,
        "reward model": is_likelihood,
    }
    return ", ".join(record.takes), ", ".join(who for who, can in learners.items() if can)


def _overview() -> Table:
    table = Table("name", "known as", "labels", "trains", "behavior")
    for record in map(_record, NAMES):
        cells = (record.name, KNOWN_AS.get(record.name, ""), *_uses(record), record.behavior)
        table.add_row(*cells, end_section=True)
    return table


def _details(record: PreferenceLikelihood | DirectObjective) -> Table:
    name, is_likelihood = record.name, isinstance(record, PreferenceLikelihood)
    labels, learners = _uses(record)
    is_learned = is_likelihood and "ties" in record.takes
    rows = {
        "known as": KNOWN_AS.get(name),
        "probability of the label" if is_likelihood else "loss of the label": record.formula,
        "labels": labels,
        "trains": learners,
        "needs": FOR_REWARD_MODELS.get(name),
        "parameters": record.parameters or "none of its own",
        "default": _settings(_defaults(TAKEN_BY.get(name, ()))),
        "reward models": "learn the share of ties" if is_learned else None,
        "further parameters": _settings(_shared(name)),
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
    """Return the defaults of the parameters that every objective of a policy has."""
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
