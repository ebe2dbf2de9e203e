"""What irlign divergences shows, and the reference table of the README."""

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from actors.config.choices import PARAMETER_OF
from actors.errors import InvalidInputError
from alignment.divergences.lookup import DIVERGENCES, LABELLED, divergence
from alignment.divergences.record import Divergence


def divergences(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show all of one.")] = None,
) -> None:
    """List the divergences a job can choose from, or all that is known of one."""
    pass

    try:
        show(Console(), name)
    except ValueError as error:  # no such divergence
        raise InvalidInputError(str(error)) from error


EXAMPLES = {
    name: {parameter: 0.1 if parameter == "skew" else 0.5}
    for name, parameter in PARAMETER_OF.items()
}
"""Parameters of the record that is shown where the user has not chosen any yet."""


GENUINE_HEADING = "Divergences from the expert p to the policy q"


LABELLED_HEADING = "Not the f-divergence one may take it for; a run says so when it starts"


COLUMNS = (
    "name",
    "formula",
    "reward of the logit h",
    "behavior",
    "choose it when",
    "avoid it when",
)


def show(console: Console, name: str | None) -> None:
    """Print all divergences, or all that is known of one.

    Args:
        name: one of them, or module:function; None prints the list.

    Raises:
        ValueError: if there is no such divergence, or an imported function is no convex generator.
    """
    if name is None:
        genuine = [each for each in DIVERGENCES if each not in LABELLED]
        console.print(_overview(GENUINE_HEADING, genuine))
        console.print(_overview(LABELLED_HEADING, list(LABELLED)))
        console.print("All of one: irlign divergences NAME", highlight=False)
        return
    details = Table(show_header=False, title=escape(name), title_justify="left", box=None)
    details.add_column(style="bold", no_wrap=True)
    details.add_column()
    for label, text in _details(_example(name)):
        details.add_row(label, escape(text))
    console.print(details)


def markdown() -> str:
    """Return the README's reference table of all divergences, the labelled ones in a second one."""
    genuine = [name for name in DIVERGENCES if name not in LABELLED]
    return "\n\n".join(
        (_markdown_rows(genuine), f"{LABELLED_HEADING}:", _markdown_rows(list(LABELLED)))
    )


def _example(name: str) -> Divergence:
    return divergence(name, **EXAMPLES.get(name, {}))


def _overview(heading: str, names: list[str]) -> Table:
    table = Table("name", "formula", "behavior", title=heading, title_justify="left")
    for name in names:
        record = _example(name)
        table.add_row(name, escape(record.formula), escape(record.behavior), end_section=True)
    return table


def _details(record: Divergence) -> list[tuple[str, str]]:
    low, high = record.safe_logits
    example = ", ".join(f"{key} = {value}" for key, value in EXAMPLES.get(record.name, {}).items())
    rows = [
        ("D(p, q)", record.formula),
        ("generator f(u)", record.generator_formula),
        ("reward r(h)", record.reward_formula),
        ("logits", f"clipped to {low:.3g} .. {high:.3g}" + (f" at {example}" if example else "")),
        ("parameters", record.parameters or "none"),
        ("behavior", record.behavior),
        ("choose it when", record.choose_when),
        ("avoid it when", record.avoid_when),
    ]
    if record.generator:
        at_zero, slope = record.generator.at_zero, record.generator.slope_at_infinity
        price = f"{at_zero:.3g} for what only the policy says, {slope:.3g} for what it never says"
        rows.insert(3, ("price of mass", price + (f", at {example}" if example else "")))
    return rows + ([("caveat", record.caveat)] if record.caveat else [])


def _markdown_rows(names: list[str]) -> str:
    rows: list[tuple[str, ...]] = [COLUMNS, ("---",) * len(COLUMNS)]
    for name in names:
        record = _example(name)
        formulas = (f"`{text}`" for text in (name, record.formula, record.reward_formula))
        rows.append((*formulas, record.behavior, record.choose_when, record.avoid_when))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
