"""Plots of metrics by step, one record for each plot."""

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
    escape_label,
    new_figure,
)
from alignment.report.run.recovery import recoveries
from alignment.report.run_files import STAGES, Run

SMOOTH_FROM = 40  # a curve of more points is drawn faintly, below its running mean
SMOOTH_PARTS = 20  # the window of the mean is the length of the curve divided by this
MARGIN = 0.02  # of the vertical axis above and below the curves


class CurvePlot(NamedTuple):
    """A plot of metrics by step."""

    name: str
    """File name without its suffix."""
    title: str
    unit: str
    """Label of the vertical axis."""
    curves: dict[str, str]
    """Label of each metric."""
    levels: dict[str, float] = {}  # noqa: RUF012 - never changed
    """Value of each horizontal line, by its label."""
    from_zero: bool = False
    """Whether the vertical axis includes 0, where the size of a metric matters."""


CURVE_PLOTS = (
    CurvePlot(
        "held_out_nll",
        "NLL of the evaluation set: lower is closer to the expert",
        "nats per token",
        {"eval/held_out_nll": "negative log-likelihood"},
    ),
    CurvePlot(
        "best_metric",
        "Metric by which the best policy is kept",
        "share or mean",
        {"eval/best_metric": "evaluation.best"},
    ),
    CurvePlot(
        "divergences",
        "Estimated divergence from the expert: should fall to 0",
        "nats per response",
        {
            "discriminator/forward_kl_estimate": "forward KL(expert, policy)",
            "discriminator/reverse_kl_estimate": "reverse KL(policy, expert)",
            "discriminator/jensen_shannon_estimate": "Jensen-Shannon",
            "teacher/reverse_kl": "reverse KL(policy, teacher), exact",
        },
        {"": 0.0, "maximum of Jensen-Shannon": log(2)},
    ),
    CurvePlot(
        "auc",
        "AUC of the discriminator on new samples",
        "share of pairs in order",
        {
            "discriminator/auc_fresh": "demonstrations of the same prompts",
            "discriminator/auc_held_out": "demonstrations of the evaluation set",
        },
        {"chance": 0.5},
    ),
    CurvePlot(
        "discriminator",
        "Accuracy of the discriminator and of its control classifiers",
        "accuracy",
        {
            "discriminator/accuracy_fresh": "discriminator",
            "discriminator/accuracy_held_out": "discriminator, evaluation set",
            "discriminator/bag_of_words_accuracy": "control: bag of words",
            "discriminator/format_accuracy": "control: format",
            "discriminator/length_accuracy": "control: response length",
        },
        {"chance": 0.5},
    ),
    CurvePlot(
        "calibration",
        "Calibration of the discriminator D: both curves should be equal",
        "fraction",
        {
            "discriminator/calibration_expert": "E[1 - D] of expert",
            "discriminator/calibration_policy": "E[D] of policy",
        },
        {"policy equals expert": 0.5},
    ),
    CurvePlot(
        "state_divergence",
        "Divergence from the teacher per state: should fall to 0",
        "nats per token",
        {"learner/state_divergence": "divergence"},
        from_zero=True,
    ),
    CurvePlot(
        "logits",
        "Logits of the discriminator: the policy's should approach the expert's",
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
        "Agreement with the preference labels, before each step",
        "fraction of comparisons",
        {
            "learner/preference_accuracy": "policy, by log-ratios to the reference",
            "learner/label_accuracy": "policy, single labels",
            "discriminator/preference_accuracy": "discriminator",
        },
        {"chance": 0.5},
    ),
    CurvePlot(
        "log_ratios",
        "Log-ratios of compared responses: if both fall, others gain probability",
        "nats per response",
        {"learner/log_ratio_better": "preferred", "learner/log_ratio_worse": "rejected"},
        {"reference": 0.0},
    ),
    CurvePlot(
        "entropy",
        "Entropy of the policy: a steep fall means that responses lose diversity",
        "nats per token",
        {"learner/entropy": "entropy"},
        {"": 0.0},
    ),
    CurvePlot(
        "response_length",
        "Response length: a steady drift suggests that length is rewarded",
        "tokens",
        {"rollout/response_length": "response length"},
    ),
    CurvePlot(
        "reference_kl",
        "Estimated KL divergence of the policy from the reference",
        "nats per token",
        {"learner/reference_kl": "KL to the reference"},
        from_zero=True,
    ),
    CurvePlot(
        "behavior_kl",
        "KL of sampler and learner with the same weights: should stay near 0",
        "nats per token",
        {"learner/behavior_kl": "behavior KL"},
        from_zero=True,
    ),
    CurvePlot(
        "effective_samples",
        "Effective sample size: at 1, all samples count equally",
        "fraction of samples",
        {
            "learner/effective_sample_fraction": "with importance weights",
            "learner/effective_group_fraction": "with self-normalized weights",
        },
        from_zero=True,
    ),
    CurvePlot(
        "clipped",
        "Fractions clipped, truncated or rejected: at 0, the gradient is exact",
        "fraction",
        {
            "learner/logit_clipped_fraction": "logits",
            "learner/staleness_clipped_fraction": "staleness corrections",
            "learner/importance_truncated_fraction": "importance weights",
            "learner/clip_fraction": "ratios (PPO)",
            "learner/rejected_fraction": "responses",
        },
        from_zero=True,
    ),
    CurvePlot(
        "throughput",
        "Throughput of sampling and learning",
        "tokens per second",
        {"rollout/tokens_per_s": "sampling", "learner/tokens_per_s": "learning"},
        from_zero=True,
    ),
)


def draw_curves(run: Run, plot: CurvePlot) -> Figure | None:
    """Draw the metrics of one plot and mark the stages; None if the run has none of them."""
    labels = dict(plot.curves)
    if plot.name == "rewards":
        names = sorted({name for row in run.rows for name in row.values})
        labels |= {name: name.removeprefix("reward/") for name in names if name[:7] == "reward/"}
    series = {label: name for name, label in labels.items() if run.series(name)}
    if not series:
        return None
    figure, axes = new_figure(plot.title, 3.1)
    for index, (label, name) in enumerate(series.items()):
        _draw_curve(axes, run, name, label=escape_label(label), color=COLORS[index % len(COLORS)])
    axes.set_xlabel("step")
    axes.set_ylabel(plot.unit)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if plot.from_zero:
        lowest = min(value for name in series.values() for _, value in run.series(name))
        top = axes.get_ylim()[1]
        bottom = lowest - MARGIN * (top - lowest) if lowest < 0.0 else 0.0
        axes.set_ylim(bottom=bottom, top=(1.0 + MARGIN) * top)
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
    for stage in STAGES:  # a mean across stages would blur the change
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
    """Draw labelled horizontal lines, except those far outside the data."""
    bottom, top = axes.get_ylim()
    margin = 0.3 * (top - bottom)
    for label, level in levels.items():
        if bottom - margin <= level <= top + margin:
            axes.axhline(level, color=FAINT, linewidth=0.9, linestyle="-" if level == 0 else ":")
            axes.annotate(
                label,
                (1.0, level),
                xycoords=("axes fraction", "data"),
                xytext=(0, 2),
                textcoords="offset points",
                ha="right",
                fontsize=8,
                color=FAINT,
            )


def _mark_stages(axes: Axes, run: Run) -> None:
    """Mark the first step of each stage but the first."""
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
            xytext=(2, -9 - 11 * index),  # below the previous label, as stages may be short
            textcoords="offset points",
            fontsize=8,
            color=INK,
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.5},
        )


def _mark_events(axes: Axes, run: Run) -> None:
    """Draw a thin vertical line between the steps around each event."""
    places = sorted({each.step_before + 0.5 for each in recoveries(run)})
    for index, place in enumerate(places):
        label = "event" if index == 0 else None
        axes.axvline(place, color=RED, linewidth=0.7, linestyle=":", label=label)
