"""Tables and plot of demonstration_rewards.py."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from alignment.report.plot_style import (
    BLUE,
    FAINT,
    GREEN,
    GRID,
    INK,
    ORANGE,
    RED,
    SKY,
    add_legend,
    save_figure,
    style_axes,
)
from alignment.rewards.best_of_n import best_of_kl_bound

if TYPE_CHECKING:  # it imports this module
    from deploy.examples.reward_models.demonstration_rewards import (
        Case,
        MeanInterval,
        RewardSummary,
    )

    Results = Mapping[Case, Mapping[str, RewardSummary]]

HEADS = {
    "length": "len-\ngth",
    "closed form": "closed\nform",
    "init-sft, small": "ini-sft\nsmall",
    "init-sft, large": "\nlarge",
    "init-sft, many": "x16\nlarge",
    "init-demonstrations, small": "ini-dem\nsmall",
    "init-demonstrations, large": "\nlarge",
    "sft-demonstrations, small": "sft-dem\nsmall",
    "sft-demonstrations, large": "\nlarge",
}
"""Column heading of each reward; the tables fit 90 columns."""
CURVES = {
    "golden": (INK, "-", "golden reward itself"),
    "closed form": (RED, "-", "closed form log pi_SFT / pi_0"),
    "init-sft, large": (ORANGE, "--", "init-sft, learned"),
    "init-demonstrations, large": (GREEN, "--", "init-demonstrations, learned"),
    "sft-demonstrations, large": (BLUE, "--", "sft-demonstrations, learned"),
    "init-demonstrations, small": (SKY, ":", "init-demonstrations, symbols only"),
    "length": (FAINT, ":", "length, learned"),
}
"""Color, line and label of each reward in the plot."""


def print_tables(results: "Results", console: Console, num_worlds: int) -> None:
    """Print a table of each metric, and one that compares rewards with the closed form."""
    tables = {
        "1. Rank correlation with R": "rank_correlation",
        "2. R of the best of 16 minus that of one, in standard deviations of R": "gains",
        "3. The same minus that of the closed form (* if the 95% interval excludes 0)": (
            "beyond_closed_form"
        ),
    }
    for title, metric in tables.items():
        names = [*HEADS, "golden"] if metric == "gains" else list(HEADS)
        table = Table("expert", "N", "pi_SFT", box=None, padding=(0, 1, 0, 0), pad_edge=False)
        for name in names:
            table.add_column(HEADS.get(name, "\n" + name), justify="right")
        widest = 0.0
        for case, rewards in results.items():
            values = [rewards[name][metric] for name in names]
            values = [each[-1] if metric == "gains" else each for each in values]
            widest = max(widest, *(each.half_width for each in values))
            marks = [_mark(each) if metric == "beyond_closed_form" else "" for each in values]
            cells = [f"{each.mean:.2f}{mark}" for each, mark in zip(values, marks, strict=True)]
            table.add_row(*map(str, case), *cells)
        console.print(f"\n[bold]{title}[/]")
        console.print(table)
        console.print(f"Means of {num_worlds} worlds; 95% intervals are +-{widest:.2f} at most.")
    _print_comparison(results, console)


def _print_comparison(results: "Results", console: Console) -> None:
    """Print in how many cases each reward is better or worse than the closed form."""
    console.print("\n[bold]4. Compared with the closed form, best of 16: number of cases[/]")
    table = Table("reward", "better", "worse", "not significant", box=None, padding=(0, 2, 0, 0))
    for name in HEADS:
        differences = [rewards[name]["beyond_closed_form"] for rewards in results.values()]
        better = sum(each.mean > each.half_width for each in differences)
        worse = sum(each.mean < -each.half_width for each in differences)
        if name != "closed form":
            table.add_row(name, *map(str, (better, worse, len(differences) - better - worse)))
    console.print(table)
    console.print("Each case is tested alone: of 40 equal rewards, 1 would be better and 1 worse.")


def draw_best_of(results: "Results", path: Path) -> None:
    """Draw R of the best of n over the bound of its KL divergence, a panel for each case."""
    figure = Figure(figsize=(12.0, 6.4), layout="constrained")
    panels = figure.subplots(2, len(results) // 2, sharex=True, sharey=True, squeeze=False)
    for axes, (case, rewards) in zip(panels.flat, results.items(), strict=True):
        for name, (color, line, label) in CURVES.items():
            gains = rewards[name]["gains"]
            distances = [best_of_kl_bound(n) for n in range(1, len(gains) + 1)]
            low, high = ([g.mean + s * g.half_width for g in gains] for s in (-1.0, 1.0))
            means = [each.mean for each in gains]
            axes.plot(distances, means, line, color=color, label=label, linewidth=1.4)
            axes.fill_between(distances, low, high, color=color, alpha=0.12, linewidth=0.0)
        style_axes(axes, _label(case), grid=None)
        axes.axhline(0.0, color=GRID, linewidth=0.7)
    for axes in panels[-1]:
        axes.set_xlabel("bound of KL(best of n, pi_SFT), nats", fontsize=9, color=INK)
    for axes in panels[:, 0]:
        axes.set_ylabel("gain of golden reward, std. dev.", fontsize=9, color=INK)
    add_legend(figure, panels.flat[0], ncols=4)
    save_figure(figure, path)


def _label(case: "Case") -> str:
    return f"{case.expert}, N = {case.num_demonstrations}, {case.sft}"


def _mark(difference: "MeanInterval") -> str:
    return "*" if abs(difference.mean) > difference.half_width else " "
