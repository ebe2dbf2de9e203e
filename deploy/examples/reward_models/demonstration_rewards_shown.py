"""Tables and picture of deploy/examples/reward_models/demonstration_rewards.py."""

from matplotlib.figure import Figure
from rich.table import Table

from alignment.report.plot_style import BLUE, DPI, FAINT, GREEN, INK, ORANGE, RED, SKY
from alignment.rewards.best_of_n import best_of_kl_bound

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
"""Reward to the head of its column; the tables fit 90 columns."""
CURVES = {
    "golden": (INK, "-", "golden reward itself"),
    "closed form": (RED, "-", "closed form log pi_SFT / pi_0"),
    "init-sft, large": (ORANGE, "--", "init-sft, learned"),
    "init-demonstrations, large": (GREEN, "--", "init-demonstrations, learned"),
    "sft-demonstrations, large": (BLUE, "--", "sft-demonstrations, learned"),
    "init-demonstrations, small": (SKY, ":", "init-demonstrations, symbols only"),
    "length": (FAINT, ":", "length, learned"),
}
"""Color, line and label of what the picture shows."""


def show(found, console, num_worlds):
    """Print the tables and, in words, how rewards compare with the closed form."""
    tables = {
        "1. Rank correlation with R": "rank_correlation",
        "2. R of the best of 16 less that of one, in standard deviations of R": "gains",
        "3. The same, beyond the closed form (* where 95% of the interval is on one side)": (
            "beyond_closed_form"
        ),
    }
    for title, figure in tables.items():
        names = [*HEADS, "golden"] if figure == "gains" else list(HEADS)
        table = Table("expert", "N", "pi_SFT", box=None, padding=(0, 1, 0, 0), pad_edge=False)
        for name in names:
            table.add_column(HEADS.get(name, "\n" + name), justify="right")
        widest = 0.0
        for case, rewards in found.items():
            values = [rewards[name][figure] for name in names]
            values = [each[-1] if figure == "gains" else each for each in values]
            widest = max(widest, *(each.half_width for each in values))
            marks = [_mark(each) if figure == "beyond_closed_form" else "" for each in values]
            cells = [f"{each.mean:.2f}{mark}" for each, mark in zip(values, marks, strict=True)]
            table.add_row(*map(str, case), *cells)
        console.print(f"\n[bold]{title}[/]")
        console.print(table)
        console.print(f"Means of {num_worlds} worlds; 95% intervals are +-{widest:.2f} at most.")
    _show_verdict(found, console)


def _show_verdict(found, console):
    """Say against how many closed forms each reward won, lost, and neither."""
    console.print("\n[bold]4. Against the closed form, best of 16, in how many cases[/]")
    table = Table("reward", "better", "worse", "neither shown", box=None, padding=(0, 2, 0, 0))
    for name in HEADS:
        apart = [rewards[name]["beyond_closed_form"] for rewards in found.values()]
        better = sum(each.mean > each.half_width for each in apart)
        worse = sum(each.mean < -each.half_width for each in apart)
        if name != "closed form":
            table.add_row(name, *map(str, (better, worse, len(apart) - better - worse)))
    console.print(table)
    console.print("Each case by itself: of 40 equal rewards 1 would be shown better, 1 worse.")


def draw(found, path):
    """Draw a panel for each case: R of the best of n along the bound of its divergence."""
    picture = Figure(figsize=(12.0, 6.4), layout="constrained")
    panels = picture.subplots(2, len(found) // 2, sharex=True, sharey=True, squeeze=False)
    for axes, (case, rewards) in zip(panels.flat, found.items(), strict=True):
        for name, (color, line, label) in CURVES.items():
            gains = rewards[name]["gains"]
            distances = [best_of_kl_bound(n) for n in range(1, len(gains) + 1)]
            low, high = ([g.mean + s * g.half_width for g in gains] for s in (-1.0, 1.0))
            means = [each.mean for each in gains]
            axes.plot(distances, means, line, color=color, label=label, linewidth=1.4)
            axes.fill_between(distances, low, high, color=color, alpha=0.12, linewidth=0.0)
        axes.set_title(_label(case), fontsize=10, loc="left", color=INK)
        axes.axhline(0.0, color="#e5e5e5", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9, colors=INK)
    for axes in panels[-1]:
        axes.set_xlabel("KL(best of n, pi_SFT) at most, nats", fontsize=9, color=INK)
    for axes in panels[:, 0]:
        axes.set_ylabel("golden reward gained, std. dev.", fontsize=9, color=INK)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    picture.legend(handles, labels, loc="outside lower left", ncols=4, frameon=False, fontsize=9)
    picture.savefig(path, dpi=DPI, metadata={"Software": None})


def _label(case):
    return f"{case.expert}, N = {case.num_demonstrations}, {case.sft}"


def _mark(difference):
    return "*" if abs(difference.mean) > difference.half_width else " "
