"""The plots of a run's report: bars of patterns and times, and one PNG file for each plot."""

from pathlib import Path

from matplotlib.figure import Figure

from alignment.report.plot_style import (
    COLORS,
    GROUP_COLORS,
    GROUP_LABELS,
    INK,
    STAGE_LABELS,
    Plot,
    add_legend,
    escape_label,
    new_figure,
    save_plot,
)
from alignment.report.run.curves import CURVE_PLOTS, draw_curves
from alignment.report.run.metrics import RunSummary
from alignment.report.run.response_metric import TITLE as METRIC_TITLE
from alignment.report.run.response_metric import draw_response_metric
from alignment.report.run_files import STAGES, Run

PATTERNS_TITLE = "Share of texts that match each pattern, with 95% intervals"
TIME_TITLE = "Time by stage and phase"
PHASES_OF_A_STEP = {
    "time/sampling_s": "sampling",
    "time/scoring_s": "scoring",
    "time/discriminator_s": "discriminator",
    "time/learning_s": "learning",
    "time/sync_s": "weight sync",
    "time/waiting_s": "waiting",
}


def write_plots(run: Run, summary: RunSummary, folder: Path) -> dict[str, Plot]:
    """Write NAME.png for every plot that has data, and return the plots by name, in page order."""
    figures = {plot.name: (plot.title, draw_curves(run, plot)) for plot in CURVE_PLOTS}
    figures["metric"] = (METRIC_TITLE, draw_response_metric(run))
    figures["patterns"] = (PATTERNS_TITLE, draw_pattern_bars(summary))
    figures["time"] = (TIME_TITLE, draw_time_bars(run))
    return {
        name: save_plot(folder, name, title, figure)
        for name, (title, figure) in figures.items()
        if figure is not None
    }


def draw_pattern_bars(summary: RunSummary) -> Figure | None:
    """Draw the share of texts that match each pattern; None without patterns or texts."""
    names = list(dict.fromkeys(name for text in summary.texts.values() for name in text.patterns))
    if not names:
        return None
    figure, axes = new_figure(PATTERNS_TITLE, 3.3)
    width = 0.8 / len(summary.texts)
    for index, (group, text) in enumerate(summary.texts.items()):
        shares = [text.patterns[name] for name in names]
        heights = [100 * share.fraction for share in shares]
        places = [position + (index + 0.5) * width - 0.4 for position in range(len(names))]
        below = [100 * (share.fraction - share.interval[0]) for share in shares]
        above = [100 * (share.interval[1] - share.fraction) for share in shares]
        axes.bar(
            places, heights, 0.92 * width, color=GROUP_COLORS[group], label=GROUP_LABELS[group]
        )
        axes.errorbar(places, heights, yerr=(below, above), fmt="none", ecolor=INK, elinewidth=0.9)
    axes.set_xticks(range(len(names)), [escape_label(name) for name in names])
    axes.set_ylabel("% of texts")
    axes.set_ylim(0, 105)
    add_legend(figure)
    return figure


def time_by_stage(run: Run) -> dict[str, dict[str, float]]:
    """Sum the seconds of each phase of a step over each stage; stages without data are left out."""
    times = {
        stage: {
            label: sum(value for _, value in run.series(name, stage))
            for name, label in PHASES_OF_A_STEP.items()
        }
        for stage in STAGES
    }
    return {stage: parts for stage, parts in times.items() if sum(parts.values()) > 0}


def draw_time_bars(run: Run) -> Figure | None:
    """Draw one bar per stage, the phases of a step stacked; None without timings."""
    times = time_by_stage(run)
    if not times:
        return None
    figure, axes = new_figure(TIME_TITLE, 1.4 + 0.45 * len(times))
    unit, divisor = _time_unit(max(sum(parts.values()) for parts in times.values()))
    stages = list(reversed(times))  # barh draws the first bar at the bottom
    left = [0.0] * len(stages)
    for color, label in zip(COLORS, PHASES_OF_A_STEP.values(), strict=True):
        lengths = [times[stage][label] / divisor for stage in stages]
        if any(lengths):
            names = [STAGE_LABELS[stage] for stage in stages]
            axes.barh(names, lengths, 0.6, left=left, color=color, label=label)
        left = [start + length for start, length in zip(left, lengths, strict=True)]
    axes.set_xlabel(unit)
    axes.grid(visible=False, axis="y")
    add_legend(figure)
    return figure


def _time_unit(seconds: float) -> tuple[str, float]:
    if seconds < 300:
        return "seconds", 1.0
    return ("minutes", 60.0) if seconds < 3 * 3600 else ("hours", 3600.0)
