"""Style of every plot: size, palette, and the labels of stages and groups of texts.

Figures are created without pyplot, so a report written inside a long-lived process leaves no state.
"""

from base64 import b64encode
from pathlib import Path
from typing import Literal, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignment.report.run_files import GROUPS

DPI = 160
WIDTH_INCHES = 6.4  # with 10 point letters it is readable at page width and on a phone

# Okabe and Ito's palette, distinct in all common forms of color blindness.
BLUE, ORANGE, GREEN, RED, PINK, SKY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
)
COLORS = (BLUE, ORANGE, GREEN, RED, PINK, SKY)
INK, FAINT, GRID = "#333333", "#999999", "#e5e5e5"
STAGE_LABELS = {
    "sft": "SFT",
    "discriminator_warm_up": "discriminator warm-up",
    "on_policy": "on-policy",
}
GROUP_LABELS = {
    "prompts": "prompts",
    "before": "before training",
    "after_sft": "after SFT",
    "after": "after training",
    "expert": "expert",
}
GROUP_COLORS = dict(zip(GROUPS, (FAINT, ORANGE, SKY, BLUE, GREEN), strict=True))


class Plot(NamedTuple):
    """A plot that has been written to a file."""

    title: str
    path: Path

    @property
    def source(self) -> str:
        """The image as a data URL, for the source of an <img> element."""
        return "data:image/png;base64," + b64encode(self.path.read_bytes()).decode()


def new_figure(title: str, height: float) -> tuple[Figure, Axes]:
    """Make a figure of this height in inches with one empty axes."""
    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    axes = figure.add_subplot()
    style_axes(axes, title)
    return figure, axes


def style_axes(axes: Axes, title: str, grid: Literal["x", "y", "both"] | None = "y") -> None:
    """Set title, spines, ticks and grid lines."""
    axes.set_title(title, fontsize=10.5, loc="left", color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9, colors=INK)
    axes.set_axisbelow(True)
    if grid is not None:
        axes.grid(axis=grid, color=GRID, linewidth=0.7)


def add_legend(figure: Figure, axes: Axes | None = None, ncols: int = 3) -> None:
    """Put a legend below the plot: of all axes, or of the given one where all have its labels."""
    entries = axes.get_legend_handles_labels() if axes else ()
    figure.legend(*entries, loc="outside lower left", ncols=ncols, frameon=False, fontsize=9)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG file whose bytes depend on the figure alone."""
    figure.savefig(path, dpi=DPI, metadata={"Software": None})


def save_plot(folder: Path, name: str, title: str, figure: Figure) -> Plot:
    """Write a figure to NAME.png in a folder that exists."""
    path = folder / f"{name}.png"
    save_figure(figure, path)
    return Plot(title, path)


def escape_label(text: str) -> str:
    """Keep matplotlib from reading a user's name as a formula, or as a label to hide."""
    return text.replace("$", r"\$").lstrip("_") or "_ "
