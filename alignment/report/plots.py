"""The plots of a report, as PNG files: only those for which there are data."""

from base64 import b64encode
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from alignment.report.bars import (
    PATTERNS_TITLE,
    TIME_TITLE,
    draw_pattern_bars,
    draw_time_bars,
)
from alignment.report.curves import CURVE_PLOTS, draw_curves
from alignment.report.metrics import Summary
from alignment.report.run_files import Run

DPI = 160


class Plot(NamedTuple):
    """A plot that has been written."""

    title: str
    path: Path

    @property
    def source(self) -> str:
        """The picture itself, as the source of an image on a page."""
        return "data:image/png;base64," + b64encode(self.path.read_bytes()).decode()


def write_plots(run: Run, summary: Summary, folder: Path) -> dict[str, Plot]:
    """Write every plot for which there are data.

    Args:
        run: the run.
        summary: its headline figures.
        folder: exists; receives NAME.png for each plot.

    Returns:
        Plots by name, in the order in which they should be read.
    """
    plots: dict[str, Plot] = {}

    def write(name: str, title: str, figure: Figure | None) -> None:
        if figure is not None:
            path = folder / f"{name}.png"
            figure.savefig(path, dpi=DPI, metadata={"Software": None})
            plots[name] = Plot(title, path)

    for plot in CURVE_PLOTS:
        write(plot.name, plot.title, draw_curves(run, plot))
    write("patterns", PATTERNS_TITLE, draw_pattern_bars(summary))
    write("time", TIME_TITLE, draw_time_bars(run))
    return plots
