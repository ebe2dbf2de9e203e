"""What the command irlign modes does: solve the two-mode problem, show tables, draw a picture."""

import csv
import time
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from actors.errors import InvalidInputError
from alignment.divergences.lookup import divergence
from alignment.report.plot_style import DPI
from alignment.studies.two_modes import (
    MIN_RATIO,
    MODES,
    NUM_TOKENS,
    RESPONSE_TOKENS,
    SLIP,
    Outcome,
    States,
    TwoModes,
    chain_logits,
    response_divergence,
    two_modes,
)
from alignment.studies.two_modes_fit import Ending, Fit, fit
from alignment.studies.two_modes_plot import LABELS, STATES_LABELS, draw_two_modes


def modes(
    out: Annotated[Path, typer.Option(help="Folder for the picture and the figures.")] = Path(
        "modes"
    ),
) -> None:
    """Show which divergences cover an expert's modes and which seek one: exactly, in a minute."""
    pass

    run(out, Console())


RESPONSE_DIVERGENCES = (
    "forward_kl",
    "pearson_chi2",
    "total_variation",
    "squared_hellinger",
    "jensen_shannon",
    "reverse_kl",
)


TOKEN_FITS: tuple[tuple[str, States], ...] = (
    ("forward_kl", "expert"),
    ("jensen_shannon", "expert"),
    ("reverse_kl", "expert"),
    ("forward_kl", "policy"),
    ("jensen_shannon", "policy"),
    ("reverse_kl", "policy"),
    ("reverse_kl", "policy_with_gradient"),
)


OVERLAP_DIVERGENCES = ("forward_kl", "jensen_shannon", "reverse_kl")


OVERLAP_SLIPS = (0.15, 0.30, 0.45)


OVERLAP_TOKENS = 7


HEADS = {
    "forward_kl": "KL\n(p, q)",
    "reverse_kl": "KL\n(q, p)",
    "coverage": "E_p\n-ln q",
    "quality": "E_q\n-ln p",
    "entropy": "\nH(q)",
    "first_mode": "mass\non A",
    "precision": "preci-\nsion",
    "recall": "\nrecall",
}
"""Figure of an outcome to the head of its column; the table fits 80 columns."""


class Results(NamedTuple):
    """Everything that is computed."""

    responses: list[Fit]
    tokens: list[Fit]
    overlap: dict[float, list[Fit]]
    """By the slip of the expert; shorter responses."""


def run(out: Path, console: Console) -> None:
    """Solve every row, write the table and the picture into a folder, and show the tables.

    Args:
        out: folder; made if it is not there. modes.csv holds every restart, modes.png the picture.
        console: for a progress bar, if it is a terminal, and for the tables.

    Raises:
        InvalidInputError: if out cannot be a folder.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(f"cannot make the folder {out}: {error.strerror}") from error
    began = time.monotonic()
    problem = two_modes()
    results = _solve(problem, console)
    table, picture = out / "modes.csv", out / "modes.png"
    write_endings(table, results)
    figure = draw_two_modes(problem.entropy, results.responses, results.tokens)
    figure.savefig(picture, dpi=DPI, metadata={"Software": None})
    show(console, problem, results)
    line = f"Done in {time.monotonic() - began:.0f} s. Every restart: {table}   Picture: {picture}"
    console.print(line, highlight=False, soft_wrap=True)


def _solve(problem: TwoModes, console: Console) -> Results:
    num_overlap = len(OVERLAP_SLIPS) * len(OVERLAP_DIVERGENCES)
    total = len(RESPONSE_DIVERGENCES) + len(TOKEN_FITS) + num_overlap
    columns = (BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
    text = TextColumn("{task.description}")
    with Progress(*columns, text, console=console, transient=True) as progress:
        task = progress.add_task("", total=total)

        def solved(expert: TwoModes, name: str, states: States | None = None) -> Fit:
            progress.update(task, description=_row_name(name, states))
            result = fit(expert, name, states)
            progress.advance(task)
            return result

        return Results(
            [solved(problem, name) for name in RESPONSE_DIVERGENCES],
            [solved(problem, name, states) for name, states in TOKEN_FITS],
            {
                slip: [solved(two_modes(OVERLAP_TOKENS, slip), n) for n in OVERLAP_DIVERGENCES]
                for slip in OVERLAP_SLIPS
            },
        )


def _row_name(name: str, states: States | None) -> str:
    return LABELS[name] if states is None else f"{LABELS[name]}, {STATES_LABELS[states]}"


def write_endings(path: Path, results: Results) -> None:
    """Write a line for each restart of each row, the best first."""
    rows = [(RESPONSE_TOKENS, SLIP, each) for each in (*results.responses, *results.tokens)]
    rows += [
        (OVERLAP_TOKENS, slip, each) for slip, fits in results.overlap.items() for each in fits
    ]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        names = ("response_tokens", "slip", "divergence", "states", "restart", "value")
        writer.writerow((*names, *Outcome._fields))
        for num_tokens, slip, each in rows:
            for rank, ending in enumerate(each.endings, start=1):
                given = (num_tokens, slip, each.divergence, each.states or "whole responses", rank)
                writer.writerow((*given, ending.value, *ending.outcome))


def show(console: Console, problem: TwoModes, results: Results) -> None:
    """Print the three tables and what is needed to read them."""
    weights = " and ".join(f"{weight:g}" for weight, _ in MODES)
    console.print(
        f"The expert p has modes A and B of weight {weights}, entropy {problem.entropy:.3f} nats. "
        "The policy q is a bigram chain, which cannot hold both. All "
        f"{NUM_TOKENS**RESPONSE_TOKENS:,} responses are enumerated; figures are of whole responses,"
        f" in nats. Precision is q{{p >= {MIN_RATIO} q}}, recall p{{q >= {MIN_RATIO} p}}. A grey "
        "row is where the restarts ended that locked on the other mode.",
        highlight=False,
    )
    console.print("\n[bold]1. Minimizing a divergence of whole responses[/]")
    console.print(_fits_table(results.responses))
    console.print(_flatness(problem), highlight=False)
    console.print("\n[bold]2. Minimizing a divergence of next tokens, by whose states[/]")
    console.print(_fits_table(results.tokens))
    title = f"3. Mass on mode A as slips make the modes overlap ({OVERLAP_TOKENS} tokens)"
    console.print(f"\n[bold]{title}[/]", highlight=False)
    console.print(_overlap_table(results.overlap))


def _plain_table(first: str, heads: Iterable[str]) -> Table:
    table = Table(first, box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for head in heads:
        table.add_column(head, justify="right")
    return table


def _fits_table(fits: Sequence[Fit]) -> Table:
    table = _plain_table("\nminimized", ("\nvalue", *HEADS.values()))
    for states, group in groupby(fits, key=lambda each: each.states):
        if states is not None:
            table.add_row(f"[italic]{STATES_LABELS[states]}[/]")
        for each in group:
            table.add_row(LABELS[each.divergence], *_figures(each.endings[0]))
            others = each.elsewhere
            if others:
                name = f"  {len(others)} of {len(each.endings)} restarts"
                table.add_row(name, *_figures(others[0]), style="dim")
    return table


def _figures(ending: Ending) -> list[str]:
    outcomes = (getattr(ending.outcome, name) for name in HEADS)
    return [f"{figure:.3f}" for figure in (ending.value, *outcomes)]


def _flatness(problem: TwoModes) -> str:
    """Say why the row of the total variation has fewer digits to trust than it shows."""
    record = divergence("total_variation")
    alone = float(response_divergence(problem, record, chain_logits(MODES[0][1], SLIP)))
    return (
        f"Total variation is flat: mode A alone costs {alone:.5f}, and to three digits so does "
        "every chain that slips somewhat more. Which of them a restart ends on is chance."
    )


def _overlap_table(overlap: dict[float, list[Fit]]) -> Table:
    table = _plain_table("slip", (LABELS[name] for name in OVERLAP_DIVERGENCES))
    for slip, fits in overlap.items():
        table.add_row(f"{slip:.2f}", *(f"{each.best.first_mode:.3f}" for each in fits))
    return table
