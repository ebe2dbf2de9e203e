"""The plot of the annotator study: which likelihood keeps the order, whoever meets."""

from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture

from alignment.report.plot_style import BLUE, FAINT, GREEN, INK, ORANGE, PINK, RED, SKY
from alignment.studies.annotator_study import BEST_OF, Figure, Outcome

SIZE_INCHES = (11.0, 7.4)
TITLE = (
    "When like meets like, a classifier of chosen and rejected loses the order; models of pairs "
    "keep it.\nA learned variance helps where noise differs by domain, a model of ties where ties "
    "are allowed."
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
"""Marker, color and label by name of the likelihood."""
PAIRING_LABELS = {"uniform": "all meet alike", "skewed": "nine in ten among near equals"}
HEADING_ROWS = 0.6
"""Height of a pairing's heading, where a crowd's row has 1."""
ROW_SHARE = 0.74
"""Of a row's height, over which its markers are spread."""

Row = tuple[str, str]
"""Pairing and annotators."""


def draw_annotators(outcomes: Sequence[Outcome]) -> Picture:
    """Draw rank correlation and best-of-N regret, a row for each pairing and crowd.

    Args:
        outcomes: of the study, in the order of the rows.

    Returns:
        The figure, made without pyplot.
    """
    places = _row_places(outcomes)
    picture = Picture(figsize=SIZE_INCHES, layout="constrained")
    left, right = picture.subplots(1, 2, sharey=True)
    _draw_points(left, places, outcomes, lambda each: each.rank_correlation)
    _draw_points(right, places, outcomes, lambda each: each.regret)
    _style(left, "Rank correlation with the truth (Kendall's tau): right is better")
    _style(right, f"Regret of the best of {BEST_OF}, in true score: left is better")
    left.set_xlim(min(0.0, left.get_xlim()[0]), 1.0)
    left.set_yticks(list(places.values()), [annotators for _, annotators in places])
    left.set_ylim(max(places.values()) + 0.5, min(places.values()) - 0.5 - HEADING_ROWS)
    for axes in (left, right):
        _separate_pairings(axes, places)
    handles, labels = left.get_legend_handles_labels()
    picture.legend(handles, labels, loc="outside lower left", ncols=8, frameon=False, fontsize=9)
    picture.suptitle(TITLE, fontsize=11.5, color=INK, x=0.01, ha="left")
    return picture


def _row_places(outcomes: Sequence[Outcome]) -> dict[Row, float]:
    """Return the height of each row, with room for a heading above each pairing."""
    places: dict[Row, float] = {}
    pairings: list[str] = []
    for each in outcomes:
        if each.pairing not in pairings:
            pairings.append(each.pairing)
        row = (each.pairing, each.annotators)
        places.setdefault(row, len(places) + HEADING_ROWS * len(pairings))
    return places


def _draw_points(
    axes: Axes,
    places: Mapping[Row, float],
    outcomes: Sequence[Outcome],
    of: Callable[[Outcome], Figure],
) -> None:
    """Draw each likelihood's marks, a little below the one before, with two standard errors."""
    for number, (name, (marker, color, label)) in enumerate(SERIES.items()):
        mine = [each for each in outcomes if each.likelihood == name]
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


def _separate_pairings(axes: Axes, places: Mapping[Row, float]) -> None:
    above = ""
    for (pairing, _), place in places.items():
        axes.axhline(place - 0.5, color="#e5e5e5", linewidth=0.7)
        if pairing != above:
            above = pairing
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


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=10.5, loc="left", color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9, colors=INK)
    axes.grid(axis="x", color="#e5e5e5", linewidth=0.7)
    axes.set_axisbelow(True)
