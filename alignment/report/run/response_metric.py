"""The user's metric of responses (evaluation.metric) by phase, temperature and group."""

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignment.report.plot_style import (
    COLORS,
    GROUP_LABELS,
    INK,
    WIDTH_INCHES,
    escape_label,
    style_axes,
)
from alignment.report.run_files import Run

PREFIX = "metric/"
PHASES = ("expert", "before", "after_sft", "after")
"""Phases from the top of the picture to the bottom."""
NO_TEMPERATURE = "-"
"""Stands for the temperature of demonstrations."""
NUMBER = "value"
"""Name of the mean of a metric of numbers; other names are categories."""
TITLE = "evaluation.metric of the responses to the evaluation set"
MIN_SHARE = 0.06
"""Smallest share whose percentage fits into its part of a bar."""


class Estimate(NamedTuple):
    """A share or a mean with its 95 % interval."""

    value: float
    low: float
    high: float


class MeasuredGroup(NamedTuple):
    """Responses of one phase at one temperature in one group."""

    phase: str
    temperature: str
    """A dash for demonstrations."""
    group: str
    num_responses: int
    estimates: dict[str, Estimate]
    """By category; a metric of numbers has one, called value."""

    @property
    def label(self) -> str:
        """Phase and temperature."""
        name = GROUP_LABELS[self.phase]
        if self.temperature == NO_TEMPERATURE:
            return name
        return f"{name}, temperature {self.temperature}"


def measured_groups(run: Run) -> list[MeasuredGroup]:
    """Return what metrics.jsonl has of the metric: by group, phase and temperature, ascending."""
    values: dict[str, float] = {}
    for row in run.rows:
        values |= {n: value for n, value in row.values.items() if n.startswith(PREFIX)}
    found: dict[tuple[str, str, str], dict[str, dict[str, float]]] = {}
    for name, value in values.items():
        _, phase, temperature, group, category, *end = name.split("/")
        of_group = found.setdefault((phase, temperature, group), {})
        of_group.setdefault(category, {})[end[0] if end else "value"] = value
    measured = [
        MeasuredGroup(
            *place,
            num_responses=int(parts.pop("num_responses")["value"]),
            estimates={name: Estimate(**ends) for name, ends in parts.items()},
        )
        for place, parts in found.items()
    ]
    groups = list(dict.fromkeys(each.group for each in measured))

    def place(each: MeasuredGroup) -> tuple[int, int, float]:
        degrees = 0.0 if each.temperature == NO_TEMPERATURE else float(each.temperature)
        return groups.index(each.group), PHASES.index(each.phase), degrees

    return sorted(measured, key=place)


def categories(measured: Sequence[MeasuredGroup]) -> list[str]:
    """Return all categories, the most frequent of the demonstrations first."""
    shares: dict[str, float] = {}
    for each in sorted(measured, key=lambda m: PHASES.index(m.phase)):
        for name, estimate in each.estimates.items():
            shares.setdefault(name, 0.0)
            shares[name] += estimate.value if each.phase == "expert" else 0.0
    return sorted(shares, key=lambda name: -shares[name])


def draw_response_metric(run: Run) -> Figure | None:
    """Draw a panel for each group and a bar for each phase and temperature; None without data.

    Bars of categories are stacked shares; those of numbers are points with intervals.
    """
    measured = measured_groups(run)
    if not measured:
        return None
    groups = list(dict.fromkeys(each.group for each in measured))
    sizes = [sum(each.group == group for each in measured) for group in groups]
    height = 0.9 + sum(0.45 + 0.26 * size for size in sizes)
    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=sizes, sharex=True)
    names = categories(measured)
    for axes, group in zip(panels[:, 0], groups, strict=True):
        own = [each for each in measured if each.group == group]
        of_group = "" if len(groups) == 1 else f"{escape_label(group)}, "
        style_axes(axes, f"{of_group}{own[0].num_responses} responses each", grid="x")
        axes.set_yticks(range(len(own)), [each.label for each in own])
        axes.set_ylim(len(own) - 0.5, -0.5)
        if names == [NUMBER]:
            _draw_points(axes, own)
        else:
            _draw_bars(axes, own, names)
    if names != [NUMBER]:
        panels[-1, 0].set_xlabel("% of responses", fontsize=9)
        entries = panels[0, 0].get_legend_handles_labels()
        figure.legend(*entries, loc="outside lower left", ncols=4, frameon=False, fontsize=9)
    return figure


def _draw_bars(axes: Axes, own: Sequence[MeasuredGroup], names: Sequence[str]) -> None:
    axes.set_xlim(0, 100)
    left = [0.0] * len(own)
    for index, name in enumerate(names):
        shares = [each.estimates[name].value if name in each.estimates else 0.0 for each in own]
        color = COLORS[index % len(COLORS)]
        hatch = "//" if index >= len(COLORS) else None
        percents = [100 * share for share in shares]
        label = escape_label(name)
        axes.barh(range(len(own)), percents, 0.74, left=left, color=color, label=label, hatch=hatch)
        for row, percent in enumerate(percents):
            if percent >= 100 * MIN_SHARE:
                place = (left[row] + percent / 2, row)
                text = axes.text(*place, f"{percent:.0f}", color="white", fontsize=8)
                text.set(ha="center", va="center")
        left = [start + percent for start, percent in zip(left, percents, strict=True)]


def _draw_points(axes: Axes, own: Sequence[MeasuredGroup]) -> None:
    for row, each in enumerate(own):
        value, low, high = each.estimates[NUMBER]
        ends = ([value - low], [high - value])
        axes.errorbar([value], [row], xerr=ends, fmt="o", color=COLORS[0], ecolor=INK)


def metric_table(run: Run) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return the head and the rows of a table of all estimates with their intervals."""
    measured = measured_groups(run)
    names = categories(measured)
    has_groups = len({each.group for each in measured}) > 1
    rows = [
        (
            f"{each.group}, {each.label}" if has_groups else each.label,
            [str(each.num_responses), *(_cell(each.estimates.get(name), name) for name in names)],
        )
        for each in measured
    ]
    return ["responses", *names], rows


def _cell(estimate: Estimate | None, name: str) -> str:
    if estimate is None:
        return "0%"
    if name == NUMBER:
        return f"{estimate.value:.3g} ({estimate.low:.3g} to {estimate.high:.3g})"
    low, high = round(100 * estimate.low), round(100 * estimate.high)
    return f"{estimate.value:.0%} ({low} to {high})"


def metric_sentences(run: Run) -> list[str]:
    """Describe the change from SFT to the end, a sentence for each group and temperature."""
    measured = {(m.group, m.temperature, m.phase): m for m in measured_groups(run)}
    sentences = []
    for (group, temperature, phase), after in measured.items():
        before = measured.get((group, temperature, "after_sft"))
        if phase != "after" or before is None:
            continue
        changes = [
            f"{name} {_cell(before.estimates.get(name), name)} to {_cell(estimate, name)}"
            for name, estimate in after.estimates.items()
        ]
        of_group = "" if group == "all" else f"{group}, "
        sentences.append(
            f"{of_group}temperature {temperature}, from SFT to the end: {'; '.join(changes)}."
        )
    return sentences
