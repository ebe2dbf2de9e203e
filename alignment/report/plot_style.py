"""How every plot of a report looks: size, palette, and the words for stages and groups of texts.

Figures are made without pyplot, so a report written inside a long-lived process leaves no state.
"""

from base64 import b64encode
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignment.report.run_files import GROUPS

DPI = 160


class Plot(NamedTuple):
    """A plot that has been written."""

    title: str
    path: Path

    @property
    def source(self) -> str:
        """The picture itself, as the source of an image on a page."""
        return "data:image/png;base64," + b64encode(self.path.read_bytes()).decode()


# Okabe and Ito's palette, which stays distinct in all common forms of colour blindness.
BLUE, ORANGE, GREEN, RED, PINK, SKY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
)


COLORS = (BLUE, ORANGE, GREEN, RED, PINK, SKY)


INK, FAINT = "#333333", "#999999"


WIDTH_INCHES = 6.4  # with 10 point letters it reads well at page width and on a phone


STAGE_LABELS = {
    "sft": "SFT",
    "discriminator_warm_up": "discriminator warm-up",
    "on_policy": "on-policy",
}


GROUP_LABELS = {
    "prompts": "prompts",
    "before": "before",
    "after_sft": "after SFT",
    "after": "after",
    "expert": "expert",
}


GROUP_COLORS = dict(zip(GROUPS, (FAINT, ORANGE, SKY, BLUE, GREEN), strict=True))


def new_figure(title: str, height: float) -> tuple[Figure, Axes]:
    """Make an empty figure of this height in inches."""
    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=10.5, loc="left", color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9, colors=INK)
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def add_legend(figure: Figure) -> None:
    """Explain the colors below the plot, where no curve runs."""
    figure.legend(loc="outside lower left", ncols=3, frameon=False, fontsize=9)


def plain(text: str) -> str:
    """Keep matplotlib from reading a user's name as a formula, or as a label to hide."""
    return text.replace("$", r"\$").lstrip("_") or "_ "
