"""Plot of the two-mode study: the policy's mass on each mode, coverage and quality."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignment.report.plot_style import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    ORANGE,
    RED,
    add_legend,
    style_axes,
)
from alignment.studies.two_modes import MODES
from alignment.studies.two_modes_fit import DivergenceFit

SIZE_INCHES = (11.0, 6.6)
TITLE = (
    "A policy that cannot represent both modes: forward KL covers both and the space between them, "
    "reverse KL seeks one.\nPer token, the choice of states matters more than the direction of the "
    "KL."
)
PARTS = (
    ("on mode A", BLUE),
    ("on mode B", ORANGE),
    ("on neither: expert's probability below a tenth of the policy's", "#cccccc"),
)
LABELS = {
    "forward_kl": "forward KL",
    "reverse_kl": "reverse KL",
    "jensen_shannon": "Jensen-Shannon",
    "squared_hellinger": "squared Hellinger",
    "total_variation": "total variation",
    "pearson_chi2": "Pearson chi\N{SUPERSCRIPT TWO}",
}
"""Label of each divergence."""
STATES_LABELS = {
    "expert": "expert's states",
    "policy": "own states",
    "policy_with_gradient": "own, full gradient",
}
SERIES = {
    None: ("o", INK, "whole responses"),
    "expert": ("s", GREEN, "next tokens, expert's states"),
    "policy": ("^", RED, "next tokens, own states"),
}
"""Marker, color and label by states; the full gradient gives the reverse KL of responses."""
CLOSE_NATS = 0.5
"""Points closer than this share a stack of names."""
LINE_POINTS = 11.0
NAMES_NATS = 4.4
"""Width of the margin for names."""
Place = tuple[float, float]
Bar = tuple[float, float]
"""Percentages on mode A and on mode B."""


def draw_two_modes(
    expert_entropy: float, responses: Sequence[DivergenceFit], tokens: Sequence[DivergenceFit]
) -> Figure:
    """Draw the mass on each mode as bars, and quality over coverage.

    Args:
        expert_entropy: in nats; coverage and quality of a perfect policy.
    """
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1.0, 1.1))
    upper, lower = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0])
    expert = {"expert": (100 * MODES[0][0], 100 * MODES[1][0])}
    whole = {LABELS[fit.divergence]: _bar(fit) for fit in responses}
    each = {
        f"{LABELS[fit.divergence]}, {STATES_LABELS[str(fit.states)]}": _bar(fit) for fit in tokens
    }
    _draw_bars(upper, "Divergence of whole responses", expert | whole)
    _draw_bars(lower, "Divergence of next tokens, by states", each)
    lower.set_xlabel("policy's mass in %", fontsize=9)
    _draw_points(figure.add_subplot(grid[:, 1]), expert_entropy, [*responses, *tokens])
    add_legend(figure, upper)
    figure.suptitle(TITLE, fontsize=11.5, color=INK, x=0.01, ha="left")
    return figure


def _bar(fit: DivergenceFit) -> Bar:
    on_first = fit.best.precise_first_mode
    return 100 * on_first, 100 * (fit.best.precision - on_first)


def _draw_bars(axes: Axes, title: str, bars: dict[str, Bar]) -> None:
    names = list(reversed(bars))  # barh draws the first bar at the bottom
    widths = [(*bars[name], 100 - sum(bars[name])) for name in names]
    for part, (label, color) in enumerate(PARTS):
        left = [sum(each[:part]) for each in widths]
        axes.barh(names, [each[part] for each in widths], 0.7, left=left, color=color, label=label)
    axes.set_xlim(0, 100)
    style_axes(axes, title, grid=None)


def _draw_points(axes: Axes, expert_entropy: float, fits: Sequence[DivergenceFit]) -> None:
    stacks: dict[Place, dict[str, list[str]]] = {}
    for states, (marker, color, label) in SERIES.items():
        places = {
            f.divergence: (f.best.coverage, f.best.quality) for f in fits if f.states == states
        }
        axes.plot(
            *zip(*places.values(), strict=True), marker, color=color, label=label, markersize=7
        )
        for name, place in places.items():
            near = next((other for other in stacks if _is_close(place, other)), place)
            stacks.setdefault(near, {}).setdefault(color, []).append(LABELS[name])
    axes.plot(expert_entropy, expert_entropy, "*", color=FAINT, markersize=13)
    stacks[expert_entropy, expert_entropy] = {INK: ["expert"]}
    for place, stack in stacks.items():
        _write_names(axes, place, stack)
    axes.set_xlim(right=axes.get_xlim()[1] + NAMES_NATS)
    axes.set_xlabel("coverage: E_expert[-log q] in nats, lower is better", fontsize=9)
    axes.set_ylabel("quality: E_policy[-log p] in nats, lower is better", fontsize=9)
    axes.legend(frameon=False, fontsize=9, loc="center left")
    style_axes(axes, "Quality over coverage", grid="both")


def _is_close(one: Place, other: Place) -> bool:
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) < CLOSE_NATS


def _write_names(axes: Axes, place: Place, stack: dict[str, list[str]]) -> None:
    """Write the names of the points at a place, one line for each color."""
    for line, (color, names) in enumerate(stack.items()):
        offset = (14, LINE_POINTS * ((len(stack) - 1) / 2 - line))
        text = ", ".join(names) if len(stack) > 1 else "\n".join(names)
        axes.annotate(
            text, place, offset, textcoords="offset points", fontsize=8.5, color=color, va="center"
        )
