"""The plots of a reward model's report."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from alignment.report.plot_style import BLUE, FAINT, INK, RED, add_legend, escape_label, new_figure
from alignment.report.reward_model.metrics import Calibration, Interval
from alignment.rewards.noise_sensitivity import Sensitivity

SERIES = {"bradley_terry": (BLUE, "o", "Bradley-Terry"), "classification": (RED, "X", "classifier")}
"""Color, marker and label of each likelihood."""
POINTS_A_PAIR = 0.5
SMALLEST_POINTS, LARGEST_POINTS = 12.0, 160.0
"""Area of a marker in the reliability diagram, in square points."""


def draw_reliability(calibration: Calibration) -> Figure:
    """Draw observed shares over predicted probabilities, with the number of pairs of each bin."""
    figure, axes = new_figure("Reliability diagram", 3.8)
    axes.plot([0, 1], [0, 1], "--", color=FAINT, linewidth=1.0, label="perfectly calibrated")
    predicted = [each.predicted for each in calibration.bins]
    observed = [each.observed for each in calibration.bins]
    areas = [
        min(SMALLEST_POINTS + POINTS_A_PAIR * each.num_pairs, LARGEST_POINTS)
        for each in calibration.bins
    ]
    axes.plot(predicted, observed, color=BLUE, linewidth=1.2)
    axes.scatter(
        predicted,
        observed,
        areas,
        color=BLUE,
        label="pairs of the evaluation set, with their number",
    )
    for each in calibration.bins:
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
    axes.set_xlabel("predicted probability that a response is preferred")
    axes.set_ylabel("share that is preferred")
    add_legend(figure)
    return figure


def draw_accuracies(
    title: str, accuracies: Mapping[str, Interval], overall: float | None = None
) -> Figure:
    """Draw accuracies as horizontal bars with their intervals, whose ends may be None."""
    figure, axes = new_figure(title, 1.3 + 0.33 * len(accuracies))
    for place, accuracy in enumerate(accuracies.values()):
        mean = accuracy["mean"]
        if mean is None:
            continue
        axes.barh(place, mean, 0.62, color=BLUE)
        if accuracy["low"] is not None:
            ends = [[mean - accuracy["low"]], [accuracy["high"] - mean]]
            axes.errorbar(mean, place, xerr=ends, fmt="none", ecolor=INK, elinewidth=1.0)
        rows = f" ({accuracy['num_rows']})" if accuracy["num_rows"] is not None else ""
        axes.text(1.02, place, f"{mean:.3f}{rows}", va="center", fontsize=9, color=INK)
    axes.set_yticks(range(len(accuracies)), [escape_label(label) for label in accuracies])
    axes.invert_yaxis()
    axes.set_xlim(0.0, 1.24)
    axes.set_xticks([0.0, 0.25, 0.5, 0.75, 1.0])
    axes.axvline(0.5, color=FAINT, linewidth=1.0, linestyle=":", label="chance")
    if overall is not None:
        axes.axvline(overall, color=RED, linewidth=1.0, linestyle="--", label="all rows")
    axes.set_xlabel("accuracy (number of rows)")
    axes.grid(visible=False, axis="y")
    add_legend(figure)
    return figure


def draw_noise(sensitivities: Sequence[Sensitivity]) -> Figure:
    """Draw accuracy on the evaluation set over the share of training labels that are flipped."""
    figure, axes = new_figure("Accuracy by share of flipped training labels", 3.2)
    for name, (color, marker, label) in SERIES.items():
        of_name = [each for each in sensitivities if each.likelihood == name]
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
    axes.axhline(0.5, color=FAINT, linewidth=1.0, linestyle=":", label="chance")
    axes.set_xlabel("% of training labels flipped")
    axes.set_ylabel("accuracy")
    add_legend(figure)
    return figure
