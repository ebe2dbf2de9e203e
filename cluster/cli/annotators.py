"""What the command irlign annotators does: run the study, show tables, draw a picture."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from actors.errors import InvalidInputError
from alignment.report.plot_style import DPI
from alignment.studies.annotator_plot import draw_annotators
from alignment.studies.annotator_study import (
    BEST_OF,
    CROWDS,
    LOUD,
    NUM_PAIRS,
    NUM_RESPONSES,
    PAIRINGS,
    QUIET,
    SCORE_SPREAD,
    SEEDS,
    Figure,
    Outcome,
    likelihoods_for,
    study,
)
from alignment.studies.annotators import Annotators


def annotators(
    out: Annotated[Path, typer.Option(help="Folder for the picture and the figures.")] = Path(
        "annotators"
    ),
) -> None:
    """Show which preference likelihood keeps the true order, from which annotators, in a minute."""
    pass

    run(out, Console())


HEADS = {
    "bradley_terry": "Bradley\nTerry",
    "margin": "\nmargin",
    "thurstone": "Thur-\nstone",
    "learned_variance": "learned\nvar.",
    "classification": "class-\nifier",
    "rao_kupper": "Rao\nKupper",
    "davidson": "David-\nson",
    "plackett_luce": "Plackett\nLuce",
}
"""Likelihood to the head of its column; the tables fit 80 columns."""


def run(
    out: Path,
    console: Console,
    crowds: Sequence[Annotators] = CROWDS,
    seeds: Sequence[int] = SEEDS,
) -> None:
    """Run the study, write its figures and a picture into a folder, and show the tables.

    Args:
        out: folder; made if it is not there. figures.json holds every mean and standard error,
            annotators.png the picture.
        console: for a progress bar, if it is a terminal, and for the tables.
        seeds: of the repetitions, two or more.

    Raises:
        InvalidInputError: if out cannot be a folder.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(f"cannot make the folder {out}: {error.strerror}") from error
    began = time.monotonic()
    outcomes = _outcomes(console, crowds, seeds)
    figures, picture = out / "figures.json", out / "annotators.png"
    write_figures(figures, outcomes)
    draw_annotators(outcomes).savefig(picture, dpi=DPI, metadata={"Software": None})
    show(console, outcomes, len(seeds))
    line = f"Done in {time.monotonic() - began:.0f} s. Figures: {figures}   Picture: {picture}"
    console.print(line, highlight=False, soft_wrap=True)


def _outcomes(
    console: Console, crowds: Sequence[Annotators], seeds: Sequence[int]
) -> list[Outcome]:
    columns = (BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
    text = TextColumn("{task.description}")
    outcomes = []
    with Progress(*columns, text, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(PAIRINGS) * len(crowds))
        for pairing in PAIRINGS:
            for annotators in crowds:
                progress.update(task, description=f"{annotators.name}, {pairing} pairing")
                outcomes += study(annotators, pairing, likelihoods_for(annotators), seeds)
                progress.advance(task)
    return outcomes


def write_figures(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write a list with an object for each outcome, in full precision."""
    figures = [
        each._asdict()
        | {"rank_correlation": each.rank_correlation._asdict(), "regret": each.regret._asdict()}
        for each in outcomes
    ]
    path.write_text(json.dumps(figures, indent=1) + "\n")


def show(console: Console, outcomes: Sequence[Outcome], num_seeds: int) -> None:
    """Print both tables and what is needed to read them."""
    console.print(
        f"{NUM_RESPONSES} responses with normal true scores of standard deviation "
        f"{SCORE_SPREAD:g} are compared {NUM_PAIRS} times, with noise of about 1 on each; by "
        f"domain it is {QUIET:g} on every other one and {LOUD:g} on the rest. A flip turns an "
        "answer around. In uniform pairing all meet alike; in skewed pairing nine comparisons of "
        "ten are between near equals. Only margin is told how strong a preference was. A "
        "likelihood that knows no ties is fitted without them, one that knows no rankings to all "
        "their pairs. Where a column is empty, it equals Bradley-Terry.",
        highlight=False,
    )
    console.print("\n[bold]1. Rank correlation with the truth (Kendall's tau)[/]")
    _show_table(console, outcomes, num_seeds, lambda each: each.rank_correlation)
    console.print(f"\n[bold]2. Regret of the best of {BEST_OF}, in true score[/]", highlight=False)
    _show_table(console, outcomes, num_seeds, lambda each: each.regret)


def _show_table(
    console: Console, outcomes: Sequence[Outcome], num_seeds: int, of: Callable[[Outcome], Figure]
) -> None:
    table = Table("\nannotators", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for head in HEADS.values():
        table.add_column(head, justify="right")
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for each in outcomes:
        row = rows.setdefault((each.pairing, each.annotators), {})
        row[each.likelihood] = f"{of(each).mean:.3f}"
    pairing = ""
    for (next_pairing, annotators), row in rows.items():
        if next_pairing != pairing:
            pairing = next_pairing
            table.add_row(f"[italic]{pairing} pairing[/]")
        table.add_row(annotators, *(row.get(name, "") for name in HEADS))
    console.print(table)
    largest = max(of(each).standard_error for each in outcomes)
    line = f"Means of {num_seeds} seeds; standard errors are {largest:.3f} at most."
    console.print(line, highlight=False)
