"""The plots of a report, as PNG files: only those for which there are data."""

from pathlib import Path

from matplotlib.figure import Figure

from alignment.report.plot_style import DPI, Plot
from alignment.report.run.bars import PATTERNS_TITLE, TIME_TITLE, draw_pattern_bars, draw_time_bars
from alignment.report.run.curves import CURVE_PLOTS, draw_curves
from alignment.report.run.metrics import Summary
from alignment.report.run_files import Run


def write_plots(run: Run, summary: Summary, folder: Path) -> dict[str, Plot]:
    """Write every plot for which there are data.

    Args:
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
