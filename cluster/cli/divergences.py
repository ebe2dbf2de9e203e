"""The command irlign divergences, and the table of divergences in alignment/README.md."""

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
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Divergence, or module:function. Default: list all."),
    ] = None,
) -> None:
    """List the divergences that objective.divergence can be, or describe one."""
    try:
        print_divergences(Console(), name)
    except ValueError as error:  # no such divergence
        raise InvalidInputError(str(error)) from error


EXAMPLES = {
    name: {parameter: 0.1 if parameter == "skew" else 0.5}
    for name, parameter in PARAMETER_OF.items()
}
"""Parameters for which a divergence that has parameters is described."""
GENUINE_HEADING = "Divergences from the expert p to the policy q"
LABELLED_HEADING = (
    "Not the f-divergence that the name suggests; a run prints a caveat when it starts"
)
COLUMNS = (
    "name",
    "formula",
    "reward of the logit h",
    "behavior",
    "choose it when",
    "avoid it when",
)


def print_divergences(console: Console, name: str | None) -> None:
    """Print the list of divergences, or the description of one.

    Args:
        name: a divergence or module:function; None prints the list.

    Raises:
        ValueError: if there is no such divergence, or an imported function is no convex generator.
    """
    if name is None:
        genuine = [each for each in DIVERGENCES if each not in LABELLED]
        console.print(_overview(GENUINE_HEADING, genuine))
        console.print(_overview(LABELLED_HEADING, list(LABELLED)))
        console.print("More about one: irlign divergences NAME", highlight=False)
        return
    details = Table(show_header=False, title=escape(name), title_justify="left", box=None)
    details.add_column(style="bold", no_wrap=True)
    details.add_column()
    for label, text in _details(_example(name)):
        details.add_row(label, escape(text))
    console.print(details)


def markdown() -> str:
    """Return the tables of alignment/README.md: genuine divergences, then the labelled ones."""
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
        cost = (
            f"{at_zero:.3g} where only the policy has mass, {slope:.3g} where only the expert has"
        )
        rows.insert(3, ("cost of mass", cost + (f", at {example}" if example else "")))
    return rows + ([("caveat", record.caveat)] if record.caveat else [])


def _markdown_rows(names: list[str]) -> str:
    rows: list[tuple[str, ...]] = [COLUMNS, ("---",) * len(COLUMNS)]
    for name in names:
        record = _example(name)
        formulas = (f"`{text}`" for text in (name, record.formula, record.reward_formula))
        rows.append((*formulas, record.behavior, record.choose_when, record.avoid_when))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
