"""Plot of the annotator study."""

from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignment.report.plot_style import (
    BLUE,
    FAINT,
    GREEN,
    GRID,
    INK,
    ORANGE,
    PINK,
    RED,
    SKY,
    add_legend,
    style_axes,
)
from alignment.studies.annotator_study import BEST_OF, LikelihoodResult, MeanEstimate

SIZE_INCHES = (11.0, 7.4)
TITLE = (
    "If similar responses are compared, a classifier of chosen and rejected loses the order; models"
    " of pairs keep it.\nA learned variance helps if noise differs by domain, a model of ties if "
    "there are ties."
)
SERIES = {
    "bradley_terry": ("o", INK, "Bradley-Terry"),
    "margin": ("D", BLUE, "margin"),
    "thurstone": ("s", SKY, "Thurstone"),
    "learned_variance": ("^", GREEN, "learned variance"),
    "classification": ("X", RED, "classification"),
    "rao_kupper": ("v", ORANGE, "Rao-Kupper"),
    "davidson": ("P", PINK, "Davidson"),
    "plackett_luce": ("*", FAINT, "Plackett-Luce"),
}
"""Marker, color and label of each likelihood."""
PAIRING_LABELS = {"uniform": "all pairs alike", "skewed": "nine in ten of similar scores"}
HEADING_ROWS = 0.6
"""Height of the heading of a pairing, in rows."""
ROW_SHARE = 0.74
"""Share of the height of a row over which its markers are spread."""
RowKey = tuple[str, str]
"""Pairing and annotators."""


def draw_annotators(results: Sequence[LikelihoodResult]) -> Figure:
    """Draw rank correlation and best-of-N regret, a row for each pairing and group, in order."""
    places = _row_places(results)
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_points(left, places, results, lambda each: each.rank_correlation)
    _draw_points(right, places, results, lambda each: each.regret)
    style_axes(left, "Rank correlation with the truth (Kendall's tau): higher is better", grid="x")
    style_axes(right, f"Regret of the best of {BEST_OF}, in true score: lower is better", grid="x")
    left.set_xlim(min(0.0, left.get_xlim()[0]), 1.0)
    left.set_yticks(list(places.values()), [annotators for _, annotators in places])
    left.set_ylim(max(places.values()) + 0.5, min(places.values()) - 0.5 - HEADING_ROWS)
    for axes in (left, right):
        _separate_pairings(axes, places)
    add_legend(figure, left, ncols=8)
    figure.suptitle(TITLE, fontsize=11.5, color=INK, x=0.01, ha="left")
    return figure


def _row_places(results: Sequence[LikelihoodResult]) -> dict[RowKey, float]:
    """Return the vertical position of each row, below a heading for each pairing."""
    places: dict[RowKey, float] = {}
    pairings: list[str] = []
    for each in results:
        if each.pairing not in pairings:
            pairings.append(each.pairing)
        row = (each.pairing, each.annotators)
        places.setdefault(row, len(places) + HEADING_ROWS * len(pairings))
    return places


def _draw_points(
    axes: Axes,
    places: Mapping[RowKey, float],
    results: Sequence[LikelihoodResult],
    of: Callable[[LikelihoodResult], MeanEstimate],
) -> None:
    """Draw a mark with two standard errors for each likelihood, below that of the one before."""
    for number, (name, (marker, color, label)) in enumerate(SERIES.items()):
        mine = [each for each in results if each.likelihood == name]
        shift = ROW_SHARE * (number / (len(SERIES) - 1) - 0.5)
        axes.errorbar(
            [of(each).mean for each in mine],
            [places[each.pairing, each.annotators] + shift for each in mine],
            xerr=[2.0 * of(each).standard_error for each in mine],
            fmt=marker,
            color=color,
            label=label,
            markersize=5.5,
            elinewidth=0.8,
        )


def _separate_pairings(axes: Axes, places: Mapping[RowKey, float]) -> None:
    previous = ""
    for (pairing, _), place in places.items():
        axes.axhline(place - 0.5, color=GRID, linewidth=0.7)
        if pairing != previous:
            previous = pairing
            heading = f"{pairing} pairing: {PAIRING_LABELS[pairing]}"
            middle = place - 0.5 - HEADING_ROWS / 2.0
            axes.axhspan(place - 0.5 - HEADING_ROWS, place - 0.5, color="#f0f0f0", zorder=0)
            axes.text(
                *(0.01, middle, heading),
                transform=axes.get_yaxis_transform(),
                fontsize=9,
                color=INK,
                va="center",
            )
