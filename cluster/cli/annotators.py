"""The command irlign annotators: the annotator study, as tables, a JSON file and a plot."""

import json
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from alignment.report.plot_style import save_figure
from alignment.studies.annotator_plot import draw_annotators
from alignment.studies.annotator_study import (
    ANNOTATOR_GROUPS,
    BEST_OF,
    LOUD,
    NUM_PAIRS,
    NUM_RESPONSES,
    PAIRINGS,
    QUIET,
    SCORE_SPREAD,
    SEEDS,
    LikelihoodResult,
    MeanEstimate,
    fit_likelihoods,
    likelihoods_for,
)
from alignment.studies.annotators import Annotators
from cluster.cli.study_output import make_output_folder, plain_table
from cluster.jobs.progress import counted


def annotators(
    out: Annotated[Path, typer.Option(help="Folder for metrics.json and annotators.png.")] = Path(
        "annotators"
    ),
) -> None:
    """Compare preference likelihoods on synthetic annotators, in a minute."""
    run_annotator_study(out, Console())


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
"""Column heading of each likelihood; the tables fit 80 columns."""


def run_annotator_study(
    out: Path,
    console: Console,
    groups: Sequence[Annotators] = ANNOTATOR_GROUPS,
    seeds: Sequence[int] = SEEDS,
) -> None:
    """Run the study, write metrics.json and annotators.png into a folder, and print the tables."""
    make_output_folder(out)
    began = time.monotonic()
    results = _fit_all(console, groups, seeds)
    metrics, plot = out / "metrics.json", out / "annotators.png"
    write_metrics(metrics, results)
    save_figure(draw_annotators(results), plot)
    print_annotators(console, results, len(seeds))
    line = f"Done in {time.monotonic() - began:.0f} s. Metrics: {metrics}   Plot: {plot}"
    console.print(line, highlight=False, soft_wrap=True)


def _fit_all(
    console: Console, groups: Sequence[Annotators], seeds: Sequence[int]
) -> list[LikelihoodResult]:
    settings = list(product(PAIRINGS, groups))
    results = []
    with counted(console, len(settings), "fits", "fitting") as update:
        for number, (pairing, group) in enumerate(settings):
            update(number, f"fitting {group.name}, {pairing} pairing")
            results += fit_likelihoods(group, pairing, likelihoods_for(group), seeds)
    return results


def write_metrics(path: Path, results: Sequence[LikelihoodResult]) -> None:
    """Write a JSON list with an object for each result, in full precision."""
    metrics = [
        each._asdict()
        | {"rank_correlation": each.rank_correlation._asdict(), "regret": each.regret._asdict()}
        for each in results
    ]
    path.write_text(json.dumps(metrics, indent=1) + "\n")


def print_annotators(console: Console, results: Sequence[LikelihoodResult], num_seeds: int) -> None:
    """Print both tables and how to read them."""
    console.print(
        f"{NUM_RESPONSES} responses with normal true scores of standard deviation "
        f"{SCORE_SPREAD:g} are compared {NUM_PAIRS} times, with noise of scale about 1 on each "
        f"score, or of {QUIET:g} in one domain and {LOUD:g} in the other. A flip reverses a label. "
        "In uniform pairing, all pairs are equally likely; in skewed pairing, nine of ten have "
        "similar scores. Only margin uses the strength of a preference. A likelihood without ties "
        "is fitted to the other labels, one without rankings to all pairs of each ranking. An "
        "empty cell equals Bradley-Terry.",
        highlight=False,
    )
    console.print("\n[bold]1. Rank correlation with the truth (Kendall's tau)[/]")
    _print_table(console, results, num_seeds, lambda each: each.rank_correlation)
    console.print(f"\n[bold]2. Regret of the best of {BEST_OF}, in true score[/]", highlight=False)
    _print_table(console, results, num_seeds, lambda each: each.regret)


def _print_table(
    console: Console,
    results: Sequence[LikelihoodResult],
    num_seeds: int,
    of: Callable[[LikelihoodResult], MeanEstimate],
) -> None:
    table = plain_table("\nannotators", HEADS.values())
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for each in results:
        row = rows.setdefault((each.pairing, each.annotators), {})
        row[each.likelihood] = f"{of(each).mean:.3f}"
    pairing = ""
    for (next_pairing, annotators), row in rows.items():
        if next_pairing != pairing:
            pairing = next_pairing
            table.add_row(f"[italic]{pairing} pairing[/]")
        table.add_row(annotators, *(row.get(name, "") for name in HEADS))
    console.print(table)
    largest = max(of(each).standard_error for each in results)
    line = f"Means of {num_seeds} seeds; standard errors are {largest:.3f} at most."
    console.print(line, highlight=False)
