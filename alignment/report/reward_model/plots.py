"""The pictures of a reward model's report."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from alignment.report.plot_style import BLUE, FAINT, INK, RED, add_legend, new_figure, plain
from alignment.report.reward_model.measures import Calibration, Interval
from alignment.rewards.noise_sensitivity import Sensitivity

SERIES = {"bradley_terry": (BLUE, "o", "Bradley-Terry"), "classification": (RED, "X", "classifier")}
"""Color, marker and label by name of the likelihood."""
POINTS_A_PAIR = 0.5
SMALLEST_POINTS, LARGEST_POINTS = 12.0, 160.0
"""Areas of the reliability diagram's markers, in square points."""


def draw_reliability(found: Calibration) -> Figure:
    """Draw the observed share over the predicted chance, with the number of pairs of each bin."""
    figure, axes = new_figure("Predicted and observed: on the line, chances are right", 3.8)
    axes.plot([0, 1], [0, 1], "--", color=FAINT, linewidth=1.0, label="perfectly calibrated")
    predicted = [each.predicted for each in found.bins]
    observed = [each.observed for each in found.bins]
    areas = [
        min(SMALLEST_POINTS + POINTS_A_PAIR * each.num_pairs, LARGEST_POINTS) for each in found.bins
    ]
    axes.plot(predicted, observed, color=BLUE, linewidth=1.2)
    axes.scatter(predicted, observed, areas, color=BLUE, label="held-out pairs, with their number")
    for each in found.bins:
        axes.annotate(
            f"{each.num_pairs}",
            (each.predicted, each.observed),
            xytext=(6, -11),
            textcoords="offset points",
            fontsize=8,
            color=INK,
        )
    axes.set_xlim(-0.02, 1.06)
    axes.set_ylim(-0.09, 1.06)
    axes.set_xlabel("predicted chance that a response is preferred")
    axes.set_ylabel("share that was preferred")
    add_legend(figure)
    return figure


def draw_shares(title: str, shares: Mapping[str, Interval], overall: float | None = None) -> Figure:
    """Draw accuracies as bars from 0 to 1 with their intervals.

    Args:
        shares: from above to below; low and high may be None.
        overall: a line to compare with.

    Returns:
        The figure.
    """
    figure, axes = new_figure(title, 1.3 + 0.33 * len(shares))
    for place, share in enumerate(shares.values()):
        mean = share["mean"]
        if mean is None:
            continue
        axes.barh(place, mean, 0.62, color=BLUE)
        if share["low"] is not None:
            ends = [[mean - share["low"]], [share["high"] - mean]]
            axes.errorbar(mean, place, xerr=ends, fmt="none", ecolor=INK, elinewidth=1.0)
        rows = f" ({share['num_rows']})" if share["num_rows"] is not None else ""
        axes.text(1.02, place, f"{mean:.3f}{rows}", va="center", fontsize=9, color=INK)
    axes.set_yticks(range(len(shares)), [plain(label) for label in shares])
    axes.invert_yaxis()
    axes.set_xlim(0.0, 1.24)
    axes.set_xticks([0.0, 0.25, 0.5, 0.75, 1.0])
    axes.axvline(0.5, color=FAINT, linewidth=1.0, linestyle=":", label="a coin")
    if overall is not None:
        axes.axvline(overall, color=RED, linewidth=1.0, linestyle="--", label="all rows")
    axes.set_xlabel("share in the right order (number of rows)")
    axes.grid(visible=False, axis="y")
    add_legend(figure)
    return figure


def draw_noise(found: Sequence[Sensitivity]) -> Figure:
    """Draw held-out accuracy over the share of training answers that were turned around."""
    figure, axes = new_figure("Accuracy when more training answers are wrong", 3.2)
    for name, (color, marker, label) in SERIES.items():
        of_name = [each for each in found if each.likelihood == name]
        axes.errorbar(
            [100 * each.flipped for each in of_name],
            [each.mean for each in of_name],
            yerr=[each.spread for each in of_name],
            fmt=f"-{marker}",
            color=color,
            label=label,
            linewidth=1.2,
            elinewidth=0.9,
        )
    axes.axhline(0.5, color=FAINT, linewidth=1.0, linestyle=":", label="a coin")
    axes.set_xlabel("% of training answers turned around")
    axes.set_ylabel("held-out accuracy")
    add_legend(figure)
    return figure
