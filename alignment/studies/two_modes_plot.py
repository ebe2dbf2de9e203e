"""A picture of alignment/studies/two_modes.py: where each divergence puts the policy's mass."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignment.report.plot_style import BLUE, FAINT, GREEN, INK, ORANGE, RED
from alignment.studies.two_modes import MODES
from alignment.studies.two_modes_fit import Fit

SIZE_INCHES = (11.0, 6.6)
TITLE = (
    "A policy that cannot hold both modes: forward KL covers them and smears, reverse KL picks one."
    "\nToken by token, it matters more whose states are used than which KL it is."
)
PARTS = (
    ("on mode A", BLUE),
    ("on mode B", ORANGE),
    ("on neither: less than a tenth as likely under the expert", "#cccccc"),
)
LABELS = {
    "forward_kl": "forward KL",
    "reverse_kl": "reverse KL",
    "jensen_shannon": "Jensen-Shannon",
    "squared_hellinger": "squared Hellinger",
    "total_variation": "total variation",
    "pearson_chi2": "Pearson chi\N{SUPERSCRIPT TWO}",
}
"""Name of a record to what a person calls it."""
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
"""Marker, color and label by states; the full gradient lies on the reverse KL of responses."""
CLOSE_NATS = 0.5
"""Points nearer than this have their names in one stack."""
LINE_POINTS = 11.0
ROOM_FOR_NAMES_NATS = 4.4

Place = tuple[float, float]
Bar = tuple[float, float]
"""Percentages on mode A and on mode B."""


def draw_two_modes(
    expert_entropy: float, responses: Sequence[Fit], tokens: Sequence[Fit]
) -> Figure:
    """Draw both tables: bars of where the mass lies, and coverage against quality.

    Args:
        expert_entropy: in nats; what a perfect policy would have on both axes.
        tokens: fits of next tokens.

    Returns:
        The figure, made without pyplot.
    """
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1.0, 1.1))
    upper, lower = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0])
    expert = {"the expert itself": (100 * MODES[0][0], 100 * MODES[1][0])}
    whole = {LABELS[fit.divergence]: _bar(fit) for fit in responses}
    each = {
        f"{LABELS[fit.divergence]}, {STATES_LABELS[str(fit.states)]}": _bar(fit) for fit in tokens
    }
    _draw_bars(upper, "Divergence of whole responses: where the mass goes", expert | whole)
    _draw_bars(lower, "Divergence of next tokens, by whose states", each)
    lower.set_xlabel("% of the policy's responses", fontsize=9)
    _draw_points(figure.add_subplot(grid[:, 1]), expert_entropy, [*responses, *tokens])
    handles, labels = upper.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(TITLE, fontsize=11.5, color=INK, x=0.01, ha="left")
    return figure


def _bar(fit: Fit) -> Bar:
    on_first = fit.best.precise_first_mode
    return 100 * on_first, 100 * (fit.best.precision - on_first)


def _draw_bars(axes: Axes, title: str, bars: dict[str, Bar]) -> None:
    names = list(reversed(bars))  # bars are drawn from below
    widths = [(*bars[name], 100 - sum(bars[name])) for name in names]
    for part, (label, color) in enumerate(PARTS):
        left = [sum(each[:part]) for each in widths]
        axes.barh(names, [each[part] for each in widths], 0.7, left=left, color=color, label=label)
    axes.set_xlim(0, 100)
    _style(axes, title)


def _draw_points(axes: Axes, expert_entropy: float, fits: Sequence[Fit]) -> None:
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
    stacks[expert_entropy, expert_entropy] = {INK: ["the expert itself"]}
    for place, stack in stacks.items():
        _write_names(axes, place, stack)
    axes.set_xlim(right=axes.get_xlim()[1] + ROOM_FOR_NAMES_NATS)
    axes.set_xlabel(
        "cost of covering the expert, E_expert[-log q], nats: left is better", fontsize=9
    )
    axes.set_ylabel("cost of what is said, E_policy[-log p], nats: lower is better", fontsize=9)
    axes.legend(frameon=False, fontsize=9, loc="center left")
    _style(axes, "Coverage against quality: no fit has both")
    axes.grid(color="#e5e5e5", linewidth=0.7)


def _is_close(one: Place, other: Place) -> bool:
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) < CLOSE_NATS


def _write_names(axes: Axes, place: Place, stack: dict[str, list[str]]) -> None:
    """Write the names at a place beside it, those of a color on one line."""
    for line, (color, names) in enumerate(stack.items()):
        offset = (14, LINE_POINTS * ((len(stack) - 1) / 2 - line))
        text = ", ".join(names) if len(stack) > 1 else "\n".join(names)
        axes.annotate(
            text, place, offset, textcoords="offset points", fontsize=8.5, color=color, va="center"
        )


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=10.5, loc="left", color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9, colors=INK)
    axes.set_axisbelow(True)
