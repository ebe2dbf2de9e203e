"""Bars: how often each pattern occurs, and where the time went."""

from matplotlib.figure import Figure

from alignment.report.plot_style import (
    COLORS,
    GROUP_COLORS,
    GROUP_LABELS,
    INK,
    STAGE_LABELS,
    add_legend,
    new_figure,
    plain,
)
from alignment.report.run.metrics import Summary
from alignment.report.run_files import STAGES, Run

PATTERNS_TITLE = "How often each pattern occurs, with 95% intervals: after should be like expert"
TIME_TITLE = "Where the time went, by stage"


PHASES_OF_A_STEP = {
    "time/sampling_s": "sampling",
    "time/scoring_s": "scoring",
    "time/discriminator_s": "discriminator",
    "time/learning_s": "learning",
    "time/sync_s": "weight sync",
    "time/waiting_s": "waiting",
}


def draw_pattern_bars(summary: Summary) -> Figure | None:
    """Draw the share of texts in which each pattern occurs; None if there is nothing to draw."""
    names = list(dict.fromkeys(n for figures in summary.texts.values() for n in figures.patterns))
    if not names:
        return None
    figure, axes = new_figure(PATTERNS_TITLE, 3.3)
    width = 0.8 / len(summary.texts)
    for index, (group, figures) in enumerate(summary.texts.items()):
        shares = [figures.patterns[name] for name in names]
        heights = [100 * share.fraction for share in shares]
        places = [position + (index + 0.5) * width - 0.4 for position in range(len(names))]
        below = [100 * (share.fraction - share.interval[0]) for share in shares]
        above = [100 * (share.interval[1] - share.fraction) for share in shares]
        axes.bar(
            places, heights, 0.92 * width, color=GROUP_COLORS[group], label=GROUP_LABELS[group]
        )
        axes.errorbar(places, heights, yerr=(below, above), fmt="none", ecolor=INK, elinewidth=0.9)
    axes.set_xticks(range(len(names)), [plain(name) for name in names])
    axes.set_ylabel("% of texts that match")
    axes.set_ylim(0, 105)
    add_legend(figure)
    return figure


def time_by_stage(run: Run) -> dict[str, dict[str, float]]:
    """Seconds of each phase of a step, summed over each stage; stages without data are left out."""
    times = {
        stage: {
            label: sum(value for _, value in run.series(name, stage))
            for name, label in PHASES_OF_A_STEP.items()
        }
        for stage in STAGES
    }
    return {stage: parts for stage, parts in times.items() if sum(parts.values()) > 0}


def draw_time_bars(run: Run) -> Figure | None:
    """Draw the time of each phase of a step, stacked, a bar a stage; None without any times."""
    times = time_by_stage(run)
    if not times:
        return None
    figure, axes = new_figure(TIME_TITLE, 1.4 + 0.45 * len(times))
    unit, divisor = _time_unit(max(sum(parts.values()) for parts in times.values()))
    stages = list(reversed(times))  # the first bar from below is the last stage
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
