"""The command irlign modes: the two-mode study, as tables, a CSV file and a plot."""

import csv
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.console import Console
from rich.table import Table

from alignment.divergences.lookup import divergence
from alignment.report.plot_style import save_figure
from alignment.studies.two_modes import (
    MIN_RATIO,
    MODES,
    NUM_TOKENS,
    RESPONSE_TOKENS,
    SLIP,
    PolicyMetrics,
    States,
    TwoModeProblem,
    chain_logits,
    response_divergence,
    two_mode_problem,
)
from alignment.studies.two_modes_fit import DivergenceFit, Restart, fit_policy
from alignment.studies.two_modes_plot import LABELS, STATES_LABELS, draw_two_modes
from cluster.cli.study_output import make_output_folder, plain_table
from cluster.jobs.progress import counted


def modes(
    out: Annotated[Path, typer.Option(help="Folder for modes.csv and modes.png.")] = Path("modes"),
) -> None:
    """Compare divergences on an expert with two modes: exactly, by enumeration, in a minute."""
    run_two_mode_study(out, Console())


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
"""Column heading of each metric; the table fits 80 columns."""


class TwoModeResults(NamedTuple):
    """All fits of the study."""

    responses: list[DivergenceFit]
    tokens: list[DivergenceFit]
    overlap: dict[float, list[DivergenceFit]]
    """Fits by the expert's slip, with shorter responses."""


def run_two_mode_study(out: Path, console: Console) -> None:
    """Fit all divergences, write modes.csv and modes.png into a folder, and print the tables."""
    make_output_folder(out)
    began = time.monotonic()
    problem = two_mode_problem()
    results = _fit_all(problem, console)
    table, plot = out / "modes.csv", out / "modes.png"
    write_restarts(table, results)
    save_figure(draw_two_modes(problem.entropy, results.responses, results.tokens), plot)
    print_two_modes(console, problem, results)
    line = f"Done in {time.monotonic() - began:.0f} s. Restarts: {table}   Plot: {plot}"
    console.print(line, highlight=False, soft_wrap=True)


def _fit_all(problem: TwoModeProblem, console: Console) -> TwoModeResults:
    num_overlap = len(OVERLAP_SLIPS) * len(OVERLAP_DIVERGENCES)
    total = len(RESPONSE_DIVERGENCES) + len(TOKEN_FITS) + num_overlap
    numbers = iter(range(total))
    with counted(console, total, "fits", "fitting") as update:

        def fit(expert: TwoModeProblem, name: str, states: States | None = None) -> DivergenceFit:
            update(next(numbers), f"fitting {_row_name(name, states)}")
            return fit_policy(expert, name, states)

        return TwoModeResults(
            [fit(problem, name) for name in RESPONSE_DIVERGENCES],
            [fit(problem, name, states) for name, states in TOKEN_FITS],
            {
                slip: [fit(two_mode_problem(OVERLAP_TOKENS, slip), n) for n in OVERLAP_DIVERGENCES]
                for slip in OVERLAP_SLIPS
            },
        )


def _row_name(name: str, states: States | None) -> str:
    return LABELS[name] if states is None else f"{LABELS[name]}, {STATES_LABELS[states]}"


def write_restarts(path: Path, results: TwoModeResults) -> None:
    """Write a line for each restart of each fit, the best first."""
    rows = [(RESPONSE_TOKENS, SLIP, each) for each in (*results.responses, *results.tokens)]
    rows += [
        (OVERLAP_TOKENS, slip, each) for slip, fits in results.overlap.items() for each in fits
    ]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        names = ("response_tokens", "slip", "divergence", "states", "restart", "value")
        writer.writerow((*names, *PolicyMetrics._fields))
        for num_tokens, slip, each in rows:
            for rank, restart in enumerate(each.restarts, start=1):
                given = (num_tokens, slip, each.divergence, each.states or "whole responses", rank)
                writer.writerow((*given, restart.value, *restart.metrics))


def print_two_modes(console: Console, problem: TwoModeProblem, results: TwoModeResults) -> None:
    """Print the three tables and how to read them."""
    weights = " and ".join(f"{weight:g}" for weight, _ in MODES)
    console.print(
        f"The expert p has modes A and B of weight {weights}, entropy {problem.entropy:.3f} nats. "
        "The policy q is a bigram chain, which cannot represent both. All "
        f"{NUM_TOKENS**RESPONSE_TOKENS:,} responses are enumerated; metrics are of whole responses,"
        f" in nats. Precision is q{{p >= {MIN_RATIO} q}}, recall p{{q >= {MIN_RATIO} p}}. A dimmed "
        "row shows the restarts that ended on the other mode.",
        highlight=False,
    )
    console.print("\n[bold]1. Minimizing a divergence of whole responses[/]")
    console.print(_fits_table(results.responses))
    console.print(_flatness(problem), highlight=False)
    console.print("\n[bold]2. Minimizing a divergence of next tokens, by states[/]")
    console.print(_fits_table(results.tokens))
    title = f"3. Mass on mode A as slips make the modes overlap ({OVERLAP_TOKENS} tokens)"
    console.print(f"\n[bold]{title}[/]", highlight=False)
    console.print(_overlap_table(results.overlap))


def _fits_table(fits: Sequence[DivergenceFit]) -> Table:
    table = plain_table("\nminimized", ("\nvalue", *HEADS.values()))
    for states, group in groupby(fits, key=lambda each: each.states):
        if states is not None:
            table.add_row(f"[italic]{STATES_LABELS[states]}[/]")
        for each in group:
            table.add_row(LABELS[each.divergence], *_cells(each.restarts[0]))
            others = each.on_other_mode
            if others:
                name = f"  {len(others)} of {len(each.restarts)} restarts"
                table.add_row(name, *_cells(others[0]), style="dim")
    return table


def _cells(restart: Restart) -> list[str]:
    metrics = (getattr(restart.metrics, name) for name in HEADS)
    return [f"{value:.3f}" for value in (restart.value, *metrics)]


def _flatness(problem: TwoModeProblem) -> str:
    """Explain why the row of the total variation has fewer significant digits than it shows."""
    record = divergence("total_variation")
    alone = float(response_divergence(problem, record, chain_logits(MODES[0][1], SLIP)))
    return (
        f"Total variation is flat: mode A alone has {alone:.5f}, and every chain that slips "
        "somewhat more has the same to three digits. A restart may end on any of them."
    )


def _overlap_table(overlap: dict[float, list[DivergenceFit]]) -> Table:
    table = plain_table("slip", (LABELS[name] for name in OVERLAP_DIVERGENCES))
    for slip, fits in overlap.items():
        table.add_row(f"{slip:.2f}", *(f"{each.best.first_mode:.3f}" for each in fits))
    return table
