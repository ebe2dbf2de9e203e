"""Plots of metrics over the steps of a run, one record each."""

from math import log
from statistics import fmean
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alignment.report.plot_style import (
    COLORS,
    FAINT,
    INK,
    RED,
    STAGE_LABELS,
    add_legend,
    new_figure,
    plain,
)
from alignment.report.run.recovery import recoveries
from alignment.report.run_files import STAGES, Run

SMOOTH_FROM = 40  # a curve of more points is drawn faintly, with a running mean over it
SMOOTH_PARTS = 20  # the running mean spans the curve's length divided by this


class CurvePlot(NamedTuple):
    """A plot of metrics over the steps of a run."""

    name: str
    """Of the file, without its ending."""
    title: str
    unit: str
    """Label of the vertical axis."""
    curves: dict[str, str]
    """Metric to label."""
    levels: dict[str, float] = {}  # noqa: RUF012 - never changed
    """Horizontal lines by what they mean."""
    from_zero: bool = False
    """Whether the axis begins at 0, for a figure whose size matters beside its course."""


CURVE_PLOTS = (
    CurvePlot(
        "held_out_nll",
        "Held-out likelihood of the expert: lower is nearer to the expert",
        "nats a token",
        {"eval/held_out_nll": "negative log-likelihood"},
    ),
    CurvePlot(
        "divergences",
        "Estimated divergence from the expert: should fall towards 0",
        "nats a response",
        {
            "discriminator/forward_kl_estimate": "forward KL(expert, policy)",
            "discriminator/reverse_kl_estimate": "reverse KL(policy, expert)",
            "discriminator/jensen_shannon_estimate": "Jensen-Shannon",
            "teacher/reverse_kl": "reverse KL(policy, teacher), by exact probabilities",
        },
        {"": 0.0, "most that Jensen-Shannon can be": log(2)},
    ),
    CurvePlot(
        "discriminator",
        "Can the discriminator tell them apart, and can length or single words alone?",
        "accuracy",
        {
            "discriminator/accuracy_fresh": "discriminator",
            "discriminator/accuracy_held_out": "discriminator, demonstrations held out",
            "discriminator/bag_of_words_accuracy": "bag of words alone",
            "discriminator/length_accuracy": "length alone",
        },
        {"coin toss": 0.5},
    ),
    CurvePlot(
        "calibration",
        "Is the discriminator calibrated? Then both are equal, and 0.5 in the end",
        "fraction",
        {
            "discriminator/calibration_expert": "E[1 - D] of expert",
            "discriminator/calibration_policy": "E[D] of policy",
        },
        {"coin toss": 0.5},
    ),
    CurvePlot(
        "state_divergence",
        "Divergence from the teacher at each state: should fall towards 0",
        "nats a token",
        {"learner/state_divergence": "divergence"},
        from_zero=True,
    ),
    CurvePlot(
        "logits",
        "Logits of the discriminator: the policy's should rise to meet the expert's",
        "logit (nats)",
        {"discriminator/logit_expert": "expert", "discriminator/logit_policy": "policy"},
        {"": 0.0},
    ),
    CurvePlot(
        "rewards",
        "Reward of the policy's responses, by source",
        "reward",
        {"learner/reward_mean": "total, mean", "learner/reward_std": "total, std. deviation"},
        {"": 0.0},
    ),
    CurvePlot(
        "preferences",
        "Do policy and discriminator agree with the annotators, before each step?",
        "share of comparisons",
        {
            "learner/preference_accuracy": "policy, by log-ratios to the reference",
            "learner/judgment_accuracy": "policy, on single verdicts",
            "discriminator/preference_accuracy": "discriminator",
        },
        {"coin toss": 0.5},
    ),
    CurvePlot(
        "log_ratios",
        "How likely compared responses have become: where both fall, mass goes to other ones",
        "nats a response",
        {"learner/log_ratio_better": "preferred", "learner/log_ratio_worse": "rejected"},
        {"the reference": 0.0},
    ),
    CurvePlot(
        "entropy",
        "Entropy of the policy: a steep fall means that it repeats itself",
        "nats a token",
        {"learner/entropy": "entropy"},
        {"": 0.0},
    ),
    CurvePlot(
        "response_length",
        "Length of responses: a steady drift is a sign that length is rewarded",
        "tokens",
        {"rollout/response_length": "response length"},
    ),
    CurvePlot(
        "reference_kl",
        "How far the policy has moved from where stage 2 began",
        "nats a token",
        {"learner/reference_kl": "KL to the reference"},
        from_zero=True,
    ),
    CurvePlot(
        "behavior_kl",
        "Do sampler and learner agree? A spike is a mismatch of weights",
        "nats a token",
        {"learner/behavior_kl": "behavior KL"},
        from_zero=True,
    ),
    CurvePlot(
        "effective_samples",
        "What the weighted samples are worth: 1 is all of them",
        "fraction of samples",
        {
            "learner/effective_sample_fraction": "after importance weights",
            "learner/effective_group_fraction": "after self-normalized weights",
        },
        from_zero=True,
    ),
    CurvePlot(
        "clipped",
        "What was cut to keep the step safe: at 0, the gradient is exact",
        "fraction",
        {
            "learner/logit_clipped_fraction": "logits beyond the safe range",
            "learner/staleness_clipped_fraction": "staleness corrections",
            "learner/importance_truncated_fraction": "importance weights",
            "learner/clip_fraction": "ratios clipped (PPO)",
            "learner/rejected_fraction": "responses rejected",
        },
        from_zero=True,
    ),
    CurvePlot(
        "throughput",
        "Throughput: higher is faster",
        "tokens a second",
        {"rollout/tokens_per_s": "sampling", "learner/tokens_per_s": "learning"},
        from_zero=True,
    ),
)


def draw_curves(run: Run, plot: CurvePlot) -> Figure | None:
    """Draw the metrics of one plot, with the stages marked; None if none was ever measured."""
    labels = dict(plot.curves)
    if plot.name == "rewards":
        names = sorted({name for row in run.rows for name in row.values})
        labels |= {name: name.removeprefix("reward/") for name in names if name[:7] == "reward/"}
    series = {label: name for name, label in labels.items() if run.series(name)}
    if not series:
        return None
    figure, axes = new_figure(plot.title, 3.1)
    for index, (label, name) in enumerate(series.items()):
        _draw_curve(axes, run, name, label=plain(label), color=COLORS[index % len(COLORS)])
    axes.set_xlabel("steps")
    axes.set_ylabel(plot.unit)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if plot.from_zero:
        lowest = min(value for name in series.values() for _, value in run.series(name))
        axes.set_ylim(bottom=min(0.0, lowest), top=1.02 * axes.get_ylim()[1])
    _draw_levels(axes, plot.levels)
    _mark_stages(axes, run)
    if plot.name == "throughput":
        _mark_events(axes, run)
    if len(series) > 1:
        add_legend(figure)
    return figure


def _draw_curve(axes: Axes, run: Run, name: str, *, label: str, color: str) -> None:
    points = run.series(name)
    if len(points) <= SMOOTH_FROM:
        axes.plot(*_axes_of(points), color=color, label=label, linewidth=1.6, marker="o", ms=3)
        return
    half = len(points) // SMOOTH_PARTS // 2 + 1
    shown_label: str | None = label
    for stage in STAGES:  # each by itself: a mean over the change of stages would blur it
        part = run.series(name, stage)
        if part:
            steps, values = _axes_of(part)
            mean = [fmean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]
            axes.plot(steps, values, color=color, alpha=0.3, linewidth=0.8)
            axes.plot(steps, mean, color=color, label=shown_label, linewidth=1.8)
            shown_label = None


def _axes_of(points: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [value for _, value in points]


def _draw_levels(axes: Axes, levels: dict[str, float]) -> None:
    """Draw lines with a meaning; a line far outside the data is left out."""
    bottom, top = axes.get_ylim()
    margin = 0.3 * (top - bottom)
    for meaning, level in levels.items():
        if bottom - margin <= level <= top + margin:
            axes.axhline(level, color=FAINT, linewidth=0.9, linestyle="-" if level == 0 else ":")
            place = (1.0, level)
            axes.annotate(
                meaning,
                place,
                xycoords=("axes fraction", "data"),
                xytext=(0, 2),
                textcoords="offset points",
                ha="right",
                fontsize=8,
                color=FAINT,
            )


def _mark_stages(axes: Axes, run: Run) -> None:
    """Mark where each stage but the first begins."""
    stages = [stage for stage in STAGES if any(row.stage == stage for row in run.rows)]
    firsts = {stage: min(r.step for r in run.rows if r.stage == stage) for stage in stages}
    starts: dict[int, str] = {}
    for stage in stages[1:]:
        starts[firsts[stage]] = STAGE_LABELS[stage]
    for index, (step, label) in enumerate(starts.items()):
        axes.axvline(step, color=INK, linewidth=0.8, linestyle="--")
        axes.annotate(
            f" {label}",
            (step, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(2, -9 - 11 * index),  # one below the other, as stages may be short
            textcoords="offset points",
            fontsize=8,
            color=INK,
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.5},
        )


def _mark_events(axes: Axes, run: Run) -> None:
    """Draw a thin line between the steps around each event."""
    places = sorted({found.step_before + 0.5 for found in recoveries(run)})
    for index, place in enumerate(places):
        label = "event" if index == 0 else None
        axes.axvline(place, color=RED, linewidth=0.7, linestyle=":", label=label)
